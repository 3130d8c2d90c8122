// SPDX-License-Identifier: Apache-2.0
// llama.cpp as a referee, through node-llama-cpp (prebuilt): greedy ids of a GGUF (with or without a LoRA GGUF), or its
// loss per token on a text, or its embeddings of the texts in a JSON list. Prints one JSON object. --exact: keys and
// values in F32, plain attention.
//
//   node llamacpp.mjs --modules DIR [--exact] generate MODEL.gguf PROMPT N [LORA.gguf]
//   node llamacpp.mjs --modules DIR [--exact] loss MODEL.gguf FILE WINDOW
//   node llamacpp.mjs --modules DIR embed MODEL.gguf TEXTS.json
import {createRequire} from "module";
import {pathToFileURL} from "url";
import fs from "fs";
import path from "path";

const argv = process.argv.slice(2);
const at = argv.indexOf("--modules");
const modules = at >= 0 ? argv.splice(at, 2)[1] : ".";
const exactAt = argv.indexOf("--exact"), exact = exactAt >= 0 && argv.splice(exactAt, 1).length > 0;
const memory = exact ? {flashAttention: false, experimentalKvCacheKeyType: "F32", experimentalKvCacheValueType: "F32"} : {flashAttention: true};
const [verb, file, text, number, lora] = argv;
const from = createRequire(path.join(path.resolve(modules), "x.js"));
// the package is ESM only: find its folder, import its entry point
const dir = from.resolve.paths("node-llama-cpp").map(p => path.join(p, "node-llama-cpp")).find(fs.existsSync);
if (!dir) { console.error("node-llama-cpp not found; give --modules DIR"); process.exit(2); }
const {getLlama, LlamaLogLevel} = await import(pathToFileURL(path.join(dir, "dist", "index.js")));

// leaving at once would cut off what the pipe has not taken yet
const print = line => new Promise(done => process.stdout.write(line + "\n", done));
const llama = await getLlama({gpu: false, build: "never", maxThreads: 2, logLevel: LlamaLogLevel.error});
const model = await llama.loadModel({modelPath: path.resolve(file), gpuLayers: 0});

if (verb === "embed") {
    const ctx = await model.createEmbeddingContext({contextSize: 512, threads: 2}), vectors = [];
    for (const one of JSON.parse(fs.readFileSync(text, "utf8"))) vectors.push((await ctx.getEmbeddingFor(one)).vector);
    await print(JSON.stringify({vectors}));
} else if (verb === "generate") {
    const ctx = await model.createContext({contextSize: 512, threads: 2, ...memory,
        ...(lora ? {lora: {adapters: [{filePath: path.resolve(lora)}]}} : {})});
    const seq = ctx.getSequence(), ids = [];
    const prompt = model.tokenize(text, false);
    for await (const token of seq.evaluate(prompt, {temperature: 0, yieldEogToken: true})) {
        if (model.isEogToken(token)) break;
        ids.push(token);
        if (ids.length >= Number(number)) break;
    }
    await print(JSON.stringify({ids, prompt}));
} else {
    const window = Number(number);
    const ctx = await model.createContext({contextSize: window + 8, batchSize: window + 8, threads: 2, ...memory});
    const seq = ctx.getSequence();
    const all = model.tokenize(fs.readFileSync(text, "utf8"));
    const each = [];
    for (let b = 0; b + 1 < all.length; b += window) {
        const win = all.slice(b, b + window);
        await seq.clearHistory();
        // includeTop, not includeMax: with a token filter the latter adds nothing; totalLogitWeight is relative to the maximum
        const res = await seq.controlledEvaluate(win.map((token, i) => i + 1 < win.length
            ? [token, {generateNext: {logits: {filter: {tokens: [win[i + 1]], includeTop: 1}}, totalLogitWeight: true}}] : token));
        for (let i = 0; i + 1 < win.length; i++) {
            const next = res[i].next, top = Math.max(...next.logits.values());
            each.push(Math.log(next.totalLogitWeight) - (next.logits.get(win[i + 1]) - top));
        }
    }
    await print(JSON.stringify({loss: each.reduce((a, b) => a + b, 0) / each.length, tokens: each.length, each}));
}
process.exit(0);
