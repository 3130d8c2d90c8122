#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Image networks against torch (modules with torchvision's names, written out here) and image files against Pillow:
logits, gradients and running statistics of one training step; pixels after preprocessor_config.json's rules.

  vision_referee.py [--only NAME]

Prints a line a check, `ok` or `FAIL`; the exit code is 1 if any failed. Needs torch, safetensors, pillow, numpy.
"""
import argparse, copy, json, os, shutil, struct, subprocess, sys, tempfile, traceback

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--bin", default=os.environ.get("STEELYARD_BIN", "build/steelyard"))
ap.add_argument("--only")
args = ap.parse_args()
tool = os.path.join(os.environ.get("STEELYARD_BUILD", "build"), "referee", "image_tool")
tmp = tempfile.mkdtemp(prefix="vision-referee-")
failed = 0
torch.set_num_threads(2)


def run(*a):
    r = subprocess.run(list(map(str, a)), capture_output=True, text=True)
    assert r.returncode == 0, f"{' '.join(map(str, a))}: exit {r.returncode}: {r.stderr.strip()[-600:]}"
    return r.stdout


def check(name):
    def go(fn):
        global failed
        if args.only and args.only not in name:
            return fn
        try:
            print(f"ok {name}: {fn()}", flush=True)
        except Exception as e:
            failed += 1
            print(f"FAIL {name}: {e if isinstance(e, AssertionError) else traceback.format_exc()}", flush=True)
        return fn
    return go


def relative(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm())


# -- networks ------------------------------------------------------------------------------

class Basic(nn.Module):
    grow = 1

    def __init__(self, i, w, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(i, w, 3, stride, 1, bias=False), nn.BatchNorm2d(w)
        self.conv2, self.bn2 = nn.Conv2d(w, w, 3, 1, 1, bias=False), nn.BatchNorm2d(w)
        self.downsample = None
        if stride != 1 or i != w:
            self.downsample = nn.Sequential(nn.Conv2d(i, w, 1, stride, bias=False), nn.BatchNorm2d(w))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (self.downsample(x) if self.downsample else x))


class Bottleneck(nn.Module):
    grow = 4

    def __init__(self, i, w, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(i, w, 1, bias=False), nn.BatchNorm2d(w)
        self.conv2, self.bn2 = nn.Conv2d(w, w, 3, stride, 1, bias=False), nn.BatchNorm2d(w)
        self.conv3, self.bn3 = nn.Conv2d(w, 4 * w, 1, bias=False), nn.BatchNorm2d(4 * w)
        self.downsample = None
        if stride != 1 or i != 4 * w:
            self.downsample = nn.Sequential(nn.Conv2d(i, 4 * w, 1, stride, bias=False), nn.BatchNorm2d(4 * w))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return F.relu(y + (self.downsample(x) if self.downsample else x))


class ResNet(nn.Module):
    def __init__(self, c):
        super().__init__()
        block = Bottleneck if c.get("block") == "bottleneck" else Basic
        self.large = c.get("stem") == "imagenet"
        w = c["widths"]
        self.conv1 = nn.Conv2d(c["num_channels"], w[0], 7 if self.large else 3, 2 if self.large else 1, 3 if self.large else 1, bias=False)
        self.bn1 = nn.BatchNorm2d(w[0])
        i, self.stages = w[0], len(w)
        for s, n in enumerate(c["layers"]):
            blocks = []
            for b in range(n):
                blocks.append(block(i, w[s], 2 if s and not b else 1))
                i = w[s] * block.grow
            setattr(self, f"layer{s + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(i, c["num_labels"])

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        if self.large:
            x = F.max_pool2d(x, 3, 2, 1)
        for s in range(self.stages):
            x = getattr(self, f"layer{s + 1}")(x)
        return self.fc(x.mean((2, 3)))


class VGG(nn.Module):
    def __init__(self, c):
        super().__init__()
        layers, i = [], c["num_channels"]
        for l in c["layers"]:
            if l == "M":
                layers.append(nn.MaxPool2d(2, 2))
            else:
                layers += [nn.Conv2d(i, l, 3, padding=1)] + ([nn.BatchNorm2d(l)] if c["batch_norm"] else []) + [nn.ReLU()]
                i = l
        self.features = nn.Sequential(*layers)
        self.side = c.get("avgpool") or c["image_size"] >> c["layers"].count("M")
        self.avgpool = nn.AdaptiveAvgPool2d(self.side)
        head, i = [], i * self.side ** 2
        for h in c["classifier"]:
            head += [nn.Linear(i, h), nn.ReLU(), nn.Dropout(0.0)]
            i = h
        self.classifier = nn.Sequential(*head, nn.Linear(i, c["num_labels"]))

    def forward(self, x):
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        sizes = [c["image_size"] ** 2 * c["num_channels"]] + c["hidden_sizes"] + [c["num_labels"]]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:]))

    def forward(self, x):
        x = x.flatten(1)
        for l in self.layers[:-1]:
            x = F.relu(l(x))
        return self.layers[-1](x)


IMAGES = 24


def data(side, channels, classes):
    g = np.random.RandomState(3)
    x, y = g.randint(0, 256, (IMAGES, side, side, channels), np.uint8), g.randint(0, classes, IMAGES).astype(np.uint8)
    images = os.path.join(tmp, "some-images-idx3-ubyte")
    shape = (IMAGES, side, side) if channels == 1 else (IMAGES, side, side, channels)
    with open(images, "wb") as f:
        f.write(struct.pack(">BBBB", 0, 0, 8, len(shape)) + struct.pack(f">{len(shape)}I", *shape) + x.tobytes())
    with open(os.path.join(tmp, "some-labels-idx1-ubyte"), "wb") as f:
        f.write(struct.pack(">BBBBI", 0, 0, 8, 1, IMAGES) + y.tobytes())
    return images, torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255, torch.from_numpy(y).long()


def network(kind, c):
    folder, out = os.path.join(tmp, "net"), os.path.join(tmp, "run")
    for d in (folder, out):
        shutil.rmtree(d, ignore_errors=True)
    os.makedirs(folder)
    torch.manual_seed(1)
    net = kind(c)
    with torch.no_grad():
        for name, t in list(net.named_parameters()) + list(net.named_buffers()):
            if t.dim() == 1:
                t.add_(torch.rand_like(t) * 0.4)
    before = {k: v.clone().contiguous() for k, v in net.state_dict().items()}
    save_file(before, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    json.dump(c, open(os.path.join(folder, "config.json"), "w"))
    images, x, y = data(c["image_size"], c["num_channels"], c["num_labels"])
    dump = os.path.join(tmp, "logits.safetensors")
    report = json.loads(run(args.bin, "eval", "--model", folder, "--data", images, "--dtype", "f32", "--batch", 7, "--dump-logits", dump, "--json", "--quiet"))
    net.eval()
    with torch.inference_mode():
        theirs = net(x)
    mine = load_file(dump)
    assert mine["labels"].view(-1).tolist() == y.tolist(), "labels"
    r = relative(mine["logits"], theirs)
    assert r < 1e-5, f"logits differ by {r:.1e}"
    accuracy = float((theirs.argmax(1) == y).float().mean())
    assert abs(report["accuracy"] - accuracy) < 1e-6, f"accuracy {report['accuracy']}, torch {accuracy}"
    # one step of plain SGD with the batch's statistics: the change is the gradient
    run(args.bin, "train", "--model", folder, "--data", images, "--out", out, "--adapter", "full", "--optimizer", "sgd", "--lr", 0.5, "--steps", 1, "--batch", IMAGES,
        "--dtype", "f32", "--clip", 0, "--schedule", "constant", "--warmup-ratio", 0, "--quiet")
    after = load_file(os.path.join(out, "model.safetensors"))
    net.train()
    exact = copy.deepcopy(net).double()
    F.cross_entropy(exact(x.double()), y).backward()
    F.cross_entropy(net(x), y).backward()
    worst = 0.0
    for (name, p), q in zip(net.named_parameters(), exact.parameters()):
        g = (before[name] - after[name]).double() / 0.5
        off, size, its = float((g - q.grad).norm()), float(q.grad.norm()), float((p.grad.double() - q.grad).norm())
        floor = 1e-6 * float(before[name].norm())  # f32 weights swallow what is below their last place; biases before a norm have none
        # deep networks of f32: a sum rounded the other way opens or closes a rectifier, in torch as here
        assert off <= max(1e-3 * size, 4 * its) + floor, f"gradient of {name}: off by {off:.1e} of {size:.1e}, torch in f32 by {its:.1e}"
        worst = max(worst, (off - floor) / max(size, 1e-12))
    for name, b in net.named_buffers():
        if "running" in name:
            assert relative(after[name], b) < 1e-5, f"{name}: {relative(after[name], b):.1e}"
    return f"logits {r:.1e}, gradients within {max(worst, 0):.0e}"


resnet = dict(model_type="torchvision_resnet", num_labels=10, num_channels=3)
vgg = dict(model_type="torchvision_vgg", num_labels=10, num_channels=3)
for name, kind, c in [
    ("resnet-20, 16 pixels", ResNet, dict(resnet, layers=[3, 3, 3], widths=[16, 32, 64], image_size=16)),
    ("resnet bottleneck, large stem", ResNet, dict(resnet, block="bottleneck", stem="imagenet", layers=[1, 2], widths=[8, 12], image_size=33)),
    ("vgg-11 with norms", VGG, dict(vgg, layers=[16, "M", 32, "M", 48, 48, "M"], batch_norm=True, classifier=[40, 30], image_size=16)),
    ("vgg without norms, mean pooling", VGG, dict(vgg, layers=[8, 12, "M", 16], batch_norm=False, classifier=[], image_size=8, avgpool=2)),
    ("mlp", MLP, dict(model_type="mlp", hidden_sizes=[50, 30], num_labels=10, image_size=9, num_channels=3)),
]:
    check(name)(lambda kind=kind, c=c: network(kind, c))


# -- images ---------------------------------------------------------------------------------

def picture(mode, size, seed):
    g = np.random.RandomState(seed)
    smooth = Image.fromarray(g.randint(0, 256, (6, 5, 3), np.uint8)).resize(size, Image.BICUBIC)
    noisy = np.clip(np.asarray(smooth).astype(int) + g.randint(-30, 31, (size[1], size[0], 3)), 0, 255).astype(np.uint8)
    return Image.fromarray(noisy).convert(mode)


def prepared(path, rules, h, w, c):
    folder, out = os.path.join(tmp, "rules"), os.path.join(tmp, "pixels")
    os.makedirs(folder, exist_ok=True)
    json.dump(rules, open(os.path.join(folder, "preprocessor_config.json"), "w"))
    run(tool, path, folder, h, w, c, out)
    return np.fromfile(out, np.float32).reshape(h, w, c)


@check("resize: PIL's filters, bytes equal")
def _():
    n = 0
    for i, (size, to) in enumerate([((53, 37), (24, 24)), ((20, 30), (64, 41)), ((31, 31), (31, 12)), ((300, 200), (7, 5)), ((17, 9), (17, 9)), ((1, 40), (5, 5))]):
        for filter in (0, 1, 2, 3, 4, 5):
            im = picture("RGB", size, i)
            path = os.path.join(tmp, "a.png")
            im.save(path)
            mine = prepared(path, dict(do_resize=True, size=dict(height=to[1], width=to[0]), resample=filter, do_rescale=False, do_normalize=False), to[1], to[0], 3)
            theirs = np.asarray(im.resize(to, filter)).astype(np.float32)
            assert (mine == theirs).all(), f"filter {filter}, {size} to {to}: {(mine != theirs).sum()} bytes differ by up to {np.abs(mine - theirs).max()}"
            n += 1
    return f"{n} pictures"


@check("files: PNG of every kind, JPEG")
def _():
    n = 0
    for mode in ("RGB", "L", "RGBA", "P", "LA", "1"):
        path = os.path.join(tmp, "b.png")
        im = picture("RGB", (33, 21), 9).convert(mode)
        im.save(path)
        mine = prepared(path, dict(do_resize=False, do_rescale=False, do_normalize=False), 21, 33, 3)
        assert (mine == np.asarray(im.convert("RGB"))).all(), mode
        n += 1
    for mode, more in (("RGB", {}), ("L", {}), ("RGB", dict(subsampling=0)), ("RGB", dict(progressive=True)), ("RGB", dict(quality=30))):
        path = os.path.join(tmp, "b.jpg")
        picture(mode, (45, 38), 4).save(path, **more)
        mine = prepared(path, dict(do_resize=False, do_rescale=False, do_normalize=False), 38, 45, 3)
        off = np.abs(mine - np.asarray(Image.open(path).convert("RGB")).astype(np.float32)).max()
        assert off <= 2, f"JPEG {mode} {more}: off by {off}"  # Pillow brings a libjpeg of its own
        n += 1
    im = picture("RGB", (33, 21), 9)
    im.save(os.path.join(tmp, "c.png"))
    grey = prepared(os.path.join(tmp, "c.png"), dict(do_resize=False, do_rescale=False, do_normalize=False), 21, 33, 1)
    assert (grey[..., 0] == np.asarray(im.convert("L"))).all(), "grey"
    return f"{n + 1} files"


@check("rules: shorter side and middle, rescaled, normalised")
def _():
    path = os.path.join(tmp, "d.png")
    for size in ((50, 37), (37, 50), (64, 64)):
        im = picture("RGB", size, 7)
        im.save(path)
        mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
        mine = prepared(path, dict(do_resize=True, size=dict(shortest_edge=32), resample=3, do_center_crop=True, crop_size=dict(height=28, width=28), do_rescale=True,
                                   rescale_factor=1 / 255, do_normalize=True, image_mean=mean, image_std=std), 28, 28, 3)
        short, long = sorted(size)
        to = (32, int(32 * long / short)) if size[0] <= size[1] else (int(32 * long / short), 32)
        a = np.asarray(im.resize(to, 3))
        top, left = (a.shape[0] - 28) // 2, (a.shape[1] - 28) // 2
        a = (a[top : top + 28, left : left + 28].astype(np.float64) / 255 - mean) / std
        assert np.abs(mine - a).max() < 1e-6, f"{size}: {np.abs(mine - a).max()}"
    return "3 pictures"

shutil.rmtree(tmp)
sys.exit(failed != 0)
