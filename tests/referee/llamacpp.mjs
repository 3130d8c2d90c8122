// SPDX-License-Identifier: Apache-2.0
// llama.cpp as a referee, through node-llama-cpp (prebuilt): greedy ids of a GGUF (with or without a LoRA GGUF), or its
// loss per token on a text. Prints one JSON object.
//
//   node llamacpp.mjs --modules DIR generate MODEL.gguf PROMPT N [LORA.gguf]
//   node llamacpp.mjs --modules DIR loss MODEL.gguf FILE WINDOW
import {createRequire} from "module";
import {pathToFileURL} from "url";
import fs from "fs";
import path from "path";

const argv = process.argv.slice(2);
const at = argv.indexOf("--modules");
const modules = at >= 0 ? argv.splice(at, 2)[1] : ".";
const [verb, file, text, number, lora] = argv;
const from = createRequire(path.join(path.resolve(modules), "x.js"));
// the package is ESM only: find its folder, import its entry point
const dir = from.resolve.paths("node-llama-cpp").map(p => path.join(p, "node-llama-cpp")).find(fs.existsSync);
if (!dir) { console.error("node-llama-cpp not found; give --modules DIR"); process.exit(2); }
const {getLlama, LlamaLogLevel} = await import(pathToFileURL(path.join(dir, "dist", "index.js")));

const llama = await getLlama({gpu: false, build: "never", maxThreads: 2, logLevel: LlamaLogLevel.error});
const model = await llama.loadModel({modelPath: path.resolve(file), gpuLayers: 0});

if (verb === "generate") {
    const ctx = await model.createContext({contextSize: 512, threads: 2, flashAttention: true,
        ...(lora ? {lora: {adapters: [{filePath: path.resolve(lora)}]}} : {})});
    const seq = ctx.getSequence(), ids = [];
    const prompt = model.tokenize(text, false);
    for await (const token of seq.evaluate(prompt, {temperature: 0, yieldEogToken: true})) {
        if (model.isEogToken(token)) break;
        ids.push(token);
        if (ids.length >= Number(number)) break;
    }
    console.log(JSON.stringify({ids, prompt}));
} else {
    const window = Number(number);
    const ctx = await model.createContext({contextSize: window + 8, batchSize: window + 8, threads: 2, flashAttention: true});
    const seq = ctx.getSequence();
    const all = model.tokenize(fs.readFileSync(text, "utf8"));
    let nll = 0, count = 0;
    for (let b = 0; b + 1 < all.length; b += window) {
        const win = all.slice(b, b + window);
        await seq.clearHistory();
        // includeTop, not includeMax: with a token filter the latter adds nothing; totalLogitWeight is relative to the maximum
        const res = await seq.controlledEvaluate(win.map((token, i) => i + 1 < win.length
            ? [token, {generateNext: {logits: {filter: {tokens: [win[i + 1]], includeTop: 1}}, totalLogitWeight: true}}] : token));
        for (let i = 0; i + 1 < win.length; i++) {
            const next = res[i].next, top = Math.max(...next.logits.values());
            nll += Math.log(next.totalLogitWeight) - (next.logits.get(win[i + 1]) - top);
            count++;
        }
    }
    console.log(JSON.stringify({loss: nll / count, tokens: count}));
}
process.exit(0);
