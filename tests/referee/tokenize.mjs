// SPDX-License-Identifier: Apache-2.0
// llama.cpp's tokenizer as a referee, through node-llama-cpp: ids of each text of a JSON list, of a GGUF's vocabulary.
//
//   node tokenize.mjs --modules DIR MODEL.gguf TEXTS.json OUT.json
import {createRequire} from "module";
import {pathToFileURL} from "url";
import fs from "fs";
import path from "path";

const argv = process.argv.slice(2);
const modules = argv.splice(argv.indexOf("--modules"), 2)[1];
const from = createRequire(path.join(path.resolve(modules), "x.js"));
const dir = from.resolve.paths("node-llama-cpp").map(p => path.join(p, "node-llama-cpp")).find(fs.existsSync);
const {getLlama, LlamaLogLevel} = await import(pathToFileURL(path.join(dir, "dist", "index.js")));
const llama = await getLlama({gpu: false, build: "never", maxThreads: 1, logLevel: LlamaLogLevel.error});
const model = await llama.loadModel({modelPath: path.resolve(argv[0]), gpuLayers: 0, vocabOnly: true});
const texts = JSON.parse(fs.readFileSync(argv[1], "utf8"));
fs.writeFileSync(argv[2], JSON.stringify(texts.map(t => Array.from(model.tokenize(t, false)))));
process.exit(0);
