"""What researchers write, as they write it: each is captured and computes, and trains, the same."""

# ruff: noqa: B905, PT018, RET504, RUF059 - as they write it

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from neuronexus_kernel.models import Architecture

# Images


class BasicBlock(nn.Module):
    """As torchvision's, with the normalisation to be chosen."""

    expansion = 1

    def __init__(self, inplanes, planes, stride=1, downsample=None, norm_layer=nn.BatchNorm2d):
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, 1, bias=False)
        self.bn1 = norm_layer(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = norm_layer(planes)
        self.downsample = downsample

    def forward(self, x):
        identity = x
        out = self.conv1(x)
        out = self.bn1(out)
        out = self.relu(out)
        out = self.conv2(out)
        out = self.bn2(out)
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        out = self.relu(out)
        return out


class ResNet(nn.Module):
    def __init__(self, norm_layer=nn.BatchNorm2d, classes=5):
        super().__init__()
        self.inplanes, self.norm_layer = 4, norm_layer
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn1 = norm_layer(4)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = self._make_layer(4, 1)
        self.layer2 = self._make_layer(8, 2, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(8, classes)

    def _make_layer(self, planes, blocks, stride=1):
        downsample = None
        if stride != 1 or self.inplanes != planes:
            downsample = nn.Sequential(
                nn.Conv2d(self.inplanes, planes, 1, stride, bias=False), self.norm_layer(planes)
            )
        layers = [BasicBlock(self.inplanes, planes, stride, downsample, self.norm_layer)]
        self.inplanes = planes
        layers += [
            BasicBlock(planes, planes, norm_layer=self.norm_layer) for _ in range(blocks - 1)
        ]
        return nn.Sequential(*layers)

    def _forward_impl(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer2(self.layer1(x))
        x = self.avgpool(x)
        x = torch.flatten(x, 1)
        return self.fc(x)

    def forward(self, x):
        return self._forward_impl(x)


def group_norm_resnet():
    return ResNet(lambda channels: nn.GroupNorm(2, channels))


class PaddingShortcutResNet(nn.Module):
    """The CIFAR ResNet of the paper: shortcuts without parameters, functions for the norms."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(4, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.bn = nn.BatchNorm2d(8, affine=False)
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("var", torch.ones(8))
        self.weight = nn.Parameter(torch.rand(8))
        self.bias = nn.Parameter(torch.zeros(8))
        self.linear = nn.Linear(8, 3)

    def forward(self, x):
        out = F.relu(self.bn(self.conv1(x)))
        out = F.batch_norm(
            self.conv2(out), self.mean, self.var, self.weight, self.bias, self.training, 0.2
        )
        out += F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2), "constant", 0)
        out = F.relu(out)
        out = F.avg_pool2d(out, out.size()[3])
        return self.linear(out.view(out.size(0), -1))


class PerceptronWithBatchNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(10, 8), nn.Linear(8, 8)])
        self.norms = nn.ModuleList([nn.BatchNorm1d(8), nn.BatchNorm1d(8, momentum=0.3)])
        self.act = nn.ModuleDict({"a": nn.Hardswish(), "b": nn.Mish()})
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        for i, (layer, norm) in enumerate(zip(self.layers, self.norms)):
            x = self.act["a" if i == 0 else "b"](norm(layer(x)))
        return self.head(x)


# Vision transformers


class Attention(nn.Module):
    def __init__(self, dim, heads, how):
        super().__init__()
        self.heads, self.scale, self.how = heads, (dim // heads) ** -0.5, how
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        b, n, c = x.shape
        qkv = self.qkv(x)
        if self.how == "timm":
            qkv = qkv.reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
            q, k, v = qkv.unbind(0)
        elif self.how == "indexed":
            qkv = qkv.view(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
            q, k, v = qkv[0], qkv[1], qkv[2]
        elif self.how == "unpacked":
            q, k, v = qkv.view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        else:
            q, k, v = (t.view(b, n, self.heads, -1).transpose(1, 2) for t in qkv.chunk(3, dim=-1))
        if self.how == "sdpa":
            x = F.scaled_dot_product_attention(q, k, v)
        else:
            attn = (q @ k.transpose(-2, -1)) * self.scale
            x = attn.softmax(dim=-1) @ v
        return self.proj(x.transpose(1, 2).reshape(b, n, c))


class Block(nn.Module):
    def __init__(self, dim, heads, how):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads, how)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.gamma = nn.Parameter(torch.full((dim,), 0.5))

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.gamma * self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    def __init__(self, how="timm", patches="conv"):
        super().__init__()
        dim, self.patches = 8, patches
        self.embed = nn.Conv2d(3, dim, 4, 4) if patches == "conv" else nn.Linear(3 * 16, dim)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, 5, dim) * 0.02)
        self.blocks = nn.ModuleList([Block(dim, 2, how) for _ in range(2)])
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 4)

    def forward(self, x):
        B, C, H, W = x.shape
        assert H % 4 == 0 and W % 4 == 0, "patches must fit"
        if self.patches == "conv":
            x = self.embed(x).flatten(2).transpose(1, 2)
        else:
            x = x.reshape(B, C, H // 4, 4, W // 4, 4).permute(0, 2, 4, 1, 3, 5)
            x = self.embed(x.reshape(B, (H // 4) * (W // 4), -1))
        cls = self.cls_token.expand(B, -1, -1)
        x = torch.cat((cls, x), dim=1)
        x = x + self.pos_embed[:, : x.size(1)]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class TorchTransformer(nn.Module):
    """nn.MultiheadAttention, nn.TransformerEncoder, class token by repeat, mean at the end."""

    def __init__(self, norm_first=False, activation="relu", batch_first=True):
        super().__init__()
        self.batch_first = batch_first
        self.embed = nn.Linear(6, 8)
        self.token = nn.Parameter(torch.rand(1, 1, 8))
        self.attn = nn.MultiheadAttention(8, 2, batch_first=batch_first)
        layer = nn.TransformerEncoderLayer(
            8, 2, 16, 0.0, activation, batch_first=batch_first, norm_first=norm_first
        )
        norm = nn.LayerNorm(8) if norm_first else None
        self.encoder = nn.TransformerEncoder(layer, 2, norm, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.embed(x)
        x = torch.cat([self.token.repeat(x.shape[0], 1, 1), x], 1)
        if not self.batch_first:
            x = x.permute(1, 0, 2)
        attended, _ = self.attn(x, x, x, need_weights=False)
        x = self.encoder(x + attended)
        return self.head(x.mean(dim=1 if self.batch_first else 0))


class CrossAttention(nn.Module):
    """Learned queries, as in Perceiver and in attention pooling; keys of another width too."""

    def __init__(self):
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 2, 8))
        self.first = nn.MultiheadAttention(8, 2, batch_first=True)
        self.second = nn.MultiheadAttention(8, 4, kdim=6, vdim=6, batch_first=True)
        self.decoder = nn.TransformerDecoder(
            nn.TransformerDecoderLayer(8, 2, 8, 0.0, batch_first=True, norm_first=True), 1
        )
        self.embed, self.out = nn.Linear(6, 8), nn.Linear(16, 3)

    def forward(self, x):
        query = self.query.expand(x.size(0), -1, -1)
        memory = self.embed(x)
        y = self.first(query, memory, memory)[0] + self.second(query, x, x)[0]
        return self.out(torch.flatten(self.decoder(y, memory), start_dim=1))


# Sequences


class SeriesLSTM(nn.Module):
    """A classifier of series, starting states made by hand."""

    def __init__(self, kind=nn.LSTM, layers=2, bidirectional=False, batch_first=True, take="out"):
        super().__init__()
        self.layers, self.batch_first, self.take = layers, batch_first, take
        self.ways = 2 if bidirectional else 1
        self.rnn = kind(4, 5, layers, batch_first=batch_first, bidirectional=bidirectional)
        self.fc = nn.Linear(5 * self.ways, 3)

    def forward(self, x):
        if not self.batch_first:
            x = x.transpose(0, 1)
        h0 = torch.zeros(self.layers * self.ways, x.size(0 if self.batch_first else 1), 5)
        h0 = h0.to(x.device, x.dtype)
        if isinstance(self.rnn, nn.LSTM):
            out, (h, _) = self.rnn(x, (h0, torch.zeros_like(h0)))
        else:
            out, h = self.rnn(x, h0)
        if self.take == "out":
            return self.fc(out[:, -1, :] if self.batch_first else out[-1])
        if self.ways == 2:
            return self.fc(torch.cat((h[-2], h[-1]), dim=1))
        if self.layers == 1 and self.take == "squeeze":
            return self.fc(h.squeeze(0))
        return self.fc(h[-1])


class TokenLSTM(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(20, 6)
        self.lstm = nn.LSTM(6, 5, 2, batch_first=True, dropout=0.3, bidirectional=True)
        self.drop = nn.Dropout(0.1)
        self.fc = nn.Linear(10, 4)

    def forward(self, text):
        out, (h, c) = self.lstm(self.emb(text))
        return self.fc(self.drop(out.max(dim=1)[0] + torch.cat([h[-2], h[-1]], -1)))


class TextCNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 6)
        self.convs = nn.ModuleList([nn.Conv1d(6, 4, k) for k in (2, 3)])
        self.same = nn.Conv1d(6, 4, 3, padding="same")
        self.fc = nn.Linear(12, 3)

    def forward(self, x):
        x = self.embedding(x).permute(0, 2, 1)
        pooled = [F.max_pool1d(F.relu(conv(x)), conv(x).shape[2]).squeeze(2) for conv in self.convs]
        pooled.append(torch.max(F.relu(self.same(x)), dim=2).values)
        return self.fc(torch.cat(pooled, dim=1))


# Language models


class CausalSelfAttention(nn.Module):
    """As nanoGPT writes it."""

    def __init__(self, width, heads, block_size, flash, dropout):
        super().__init__()
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)
        self.attn_dropout = nn.Dropout(dropout)
        self.resid_dropout = nn.Dropout(dropout)
        self.n_head, self.n_embd, self.flash, self.dropout = heads, width, flash, dropout
        if not flash:
            mask = torch.tril(torch.ones(block_size, block_size))
            self.register_buffer("bias", mask.view(1, 1, block_size, block_size))

    def forward(self, x):
        B, T, C = x.size()
        q, k, v = self.c_attn(x).split(self.n_embd, dim=2)
        k = k.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        q = q.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        v = v.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        if self.flash:
            y = F.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=None,
                dropout_p=self.dropout if self.training else 0,
                is_causal=True,
            )
        else:
            att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
            att = att.masked_fill(self.bias[:, :, :T, :T] == 0, float("-inf"))
            att = F.softmax(att, dim=-1)
            att = self.attn_dropout(att)
            y = att @ v
        y = y.transpose(1, 2).contiguous().view(B, T, C)
        return self.resid_dropout(self.c_proj(y))


class GPTBlock(nn.Module):
    def __init__(self, width, heads, block_size, flash, dropout):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width)
        self.attn = CausalSelfAttention(width, heads, block_size, flash, dropout)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    def __init__(self, flash=False, dropout=0.0, vocab=11, block_size=8, width=8):
        super().__init__()
        self.block_size = block_size
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(vocab, width),
                "wpe": nn.Embedding(block_size, width),
                "drop": nn.Dropout(dropout),
                "h": nn.ModuleList([GPTBlock(width, 2, block_size, flash, dropout) for _ in "ab"]),
                "ln_f": nn.LayerNorm(width),
            }
        )
        self.lm_head = nn.Linear(width, vocab, bias=False)
        self.transformer.wte.weight = self.lm_head.weight

    def forward(self, idx, targets=None):
        device = idx.device
        b, t = idx.size()
        assert t <= self.block_size, f"{t} tokens are more than {self.block_size}"
        pos = torch.arange(0, t, dtype=torch.long, device=device)
        tok_emb = self.transformer.wte(idx)
        pos_emb = self.transformer.wpe(pos)
        x = self.transformer.drop(tok_emb + pos_emb)
        for block in self.transformer.h:
            x = block(x)
        logits = self.lm_head(self.transformer.ln_f(x))
        loss = None
        if targets is not None:
            loss = F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))
        return logits, loss


class EncoderLM(nn.Module):
    """nn.TransformerEncoder as a causal model, sinusoidal positions kept in a buffer."""

    def __init__(self, hint=True, dropout=0.0):
        super().__init__()
        self.emb, self.hint, self.width = nn.Embedding(11, 8), hint, 8
        place = torch.arange(16).unsqueeze(1)
        rate = torch.exp(torch.arange(0, 8, 2) * (-math.log(10000.0) / 8))
        pe = torch.zeros(16, 8)
        pe[:, 0::2], pe[:, 1::2] = torch.sin(place * rate), torch.cos(place * rate)
        self.register_buffer("pe", pe.unsqueeze(0))
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(8, 11)

    def forward(self, x):
        T = x.size(1)
        mask = nn.Transformer.generate_square_subsequent_mask(T, device=x.device)
        x = self.emb(x) * math.sqrt(self.width)
        x = x + self.pe[:, :T]
        if self.hint:
            x = self.encoder(x, mask=mask, is_causal=True)
        else:
            x = self.encoder(x, torch.triu(torch.ones(T, T, dtype=torch.bool), diagonal=1))
        return self.out(x)


class WindowedLM(nn.Module):
    """A mask that is not causal, positions for every row, an output tied by hand."""

    def __init__(self):
        super().__init__()
        self.tokens, self.places = nn.Embedding(9, 8), nn.Embedding(12, 8)
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)
        self.register_buffer("ids", torch.arange(12).unsqueeze(0), persistent=False)

    def forward(self, x):
        B, T = x.shape
        ids = self.ids[:, :T].expand(B, -1)
        positions = torch.arange(T, device=x.device).unsqueeze(0).repeat(B, 1)
        h = self.tokens(x) + self.places(ids) + self.places(positions)
        near = torch.ones(T, T, dtype=torch.bool).triu(-1) & torch.ones(T, T).tril(0).bool()
        h = h + self.attn(h, h, h, attn_mask=~near)[0]
        y = F.scaled_dot_product_attention(h, h, h, attn_mask=near, scale=0.2)
        return torch.matmul(h + y, self.tokens.weight.t())


# Others


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU(True), nn.Flatten(), nn.Linear(64, 6)
        )
        self.decoder = nn.Sequential(
            nn.Linear(6, 32),
            nn.Unflatten(1, (8, 2, 2)),
            nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1, output_padding=1),
            nn.InstanceNorm2d(4, affine=True),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(4, 1, 3, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, x):
        return self.decoder(self.encoder(x))


class Arithmetic(nn.Module):
    """Numbers, constants and parameters in all places."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1))
        self.std = torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
        self.linear = nn.Linear(3, 6)
        self.scale = nn.Parameter(torch.ones(6))
        self.shift = nn.Parameter(torch.zeros(1, 6))
        self.mix = nn.Parameter(torch.randn(6, 4))
        self.temperature = nn.Parameter(torch.ones(1))

    def forward(self, x):
        x = (x - self.mean) / self.std
        x = -x * 0.5 + 1
        x = 1 - x / math.sqrt(2)
        x = 2 / (x**2 + 3.0)
        x = self.linear(x.mean(dim=[2, 3]))
        x = x * self.scale + self.shift
        x = (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6)
        x = torch.exp(x.clamp(-1, 1)) + torch.log(x.abs() + 1) + F.softplus(x) + F.relu6(x)
        x = torch.stack([x, x.square()], dim=1).sum(1)
        x = torch.where(torch.arange(6) < 3, x, torch.zeros_like(x))
        weights = torch.softmax(self.mix, dim=0)
        return F.normalize(x @ weights, dim=1) / self.temperature.exp()


class RMSNormByHand(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))
        self.norm = nn.RMSNorm(8, eps=1e-6)
        self.gate, self.up, self.down = (nn.Linear(8, 8, bias=False) for _ in range(3))

    def forward(self, x):
        h = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight
        h = self.down(F.silu(self.gate(h)) * self.up(h))
        return self.norm(x + h)


class UnrolledRNN(nn.Module):
    """A loop over time, written out by the trace."""

    def __init__(self):
        super().__init__()
        self.i2h, self.h2h, self.out = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        h = torch.zeros(x.size(0), 4, device=x.device, dtype=x.dtype)
        for t in range(x.size(1)):
            h = torch.tanh(self.i2h(x[:, t]) + self.h2h(h))
        return self.out(h)


IMAGE, SERIES = ((3, 8, 8), None), ((5, 4), None)
NETWORKS = {
    "resnet": (ResNet, *IMAGE),
    "resnet with group norm": (group_norm_resnet, *IMAGE),
    "resnet with padded shortcuts": (PaddingShortcutResNet, (4, 8, 8), None),
    "perceptron with batch norm": (PerceptronWithBatchNorm, (10,), None),
    "vit": (VisionTransformer, *IMAGE),
    "vit, qkv indexed": (lambda: VisionTransformer("indexed"), *IMAGE),
    "vit, qkv unpacked": (lambda: VisionTransformer("unpacked"), *IMAGE),
    "vit, qkv chunked": (lambda: VisionTransformer("chunk"), *IMAGE),
    "vit, patches by reshape": (lambda: VisionTransformer("sdpa", "reshape"), *IMAGE),
    "torch transformer": (TorchTransformer, (4, 6), None),
    "torch transformer, norm first": (lambda: TorchTransformer(True, "gelu"), (4, 6), None),
    "torch transformer, batch second": (
        lambda: TorchTransformer(True, batch_first=False),
        (4, 6),
        None,
    ),
    "cross attention": (CrossAttention, (4, 6), None),
    "lstm": (SeriesLSTM, *SERIES),
    "lstm, batch second": (lambda: SeriesLSTM(batch_first=False), *SERIES),
    "lstm, hidden": (lambda: SeriesLSTM(take="h"), *SERIES),
    "lstm, both ways": (lambda: SeriesLSTM(bidirectional=True, take="h"), *SERIES),
    "gru": (lambda: SeriesLSTM(nn.GRU, 1, take="squeeze"), *SERIES),
    "gru, both ways": (lambda: SeriesLSTM(nn.GRU, bidirectional=True), *SERIES),
    "text cnn": (TextCNN, (7,), 20),
    "gpt": (GPT, (6,), 11),
    "gpt, sdpa": (lambda: GPT(flash=True), (8,), 11),
    "encoder as language model": (EncoderLM, (6,), 11),
    "encoder with truth mask": (lambda: EncoderLM(hint=False), (6,), 11),
    "windowed attention": (WindowedLM, (6,), 9),
    "autoencoder": (Autoencoder, (1, 8, 8), None),
    "arithmetic": (Arithmetic, *IMAGE),
    "rms norm": (RMSNormByHand, (5, 8), None),
    "unrolled rnn": (UnrolledRNN, (4, 3), None),
}
DROPPING = {
    "token lstm": (TokenLSTM, (6,), 20),
    "gpt with dropout": (lambda: GPT(dropout=0.2), (6,), 11),
    "gpt, sdpa, dropout": (lambda: GPT(flash=True, dropout=0.2), (6,), 11),
    "encoder with dropout": (lambda: EncoderLM(dropout=0.1), (6,), 11),
}


def example(shape, vocabulary, count=1, dtype=torch.float64):
    if vocabulary is None:
        return torch.randn(count, *shape, dtype=dtype)
    return torch.randint(0, vocabulary, (count, *shape))


def first(result):
    return result[0] if isinstance(result, tuple) else result


def stirred(module):
    """Move what starts at zeros and ones, so that nothing is right by chance."""
    for value in module.parameters():
        value.data += 0.1 * torch.randn_like(value)
    return module


def captured(make, shape, vocabulary, dtype=torch.float64):
    torch.manual_seed(3)
    module = stirred(make()).to(dtype)
    architecture = Architecture.capture(module, example(shape, vocabulary, dtype=dtype))
    return module, architecture


@pytest.mark.parametrize("name", [*NETWORKS, *DROPPING])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_in_evaluation_a_capture_computes_what_the_module_does(name, dtype):
    make, shape, vocabulary = {**NETWORKS, **DROPPING}[name]
    module, architecture = captured(make, shape, vocabulary, dtype)
    assert module.training
    built = architecture.build(architecture.weights_of(module)).to(dtype).eval()
    x = example(shape, vocabulary, 5, dtype)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    expected = first(module.eval()(x))
    torch.testing.assert_close(built(x), expected, rtol=tolerance, atol=tolerance)
    assert tuple(expected.shape[1:]) == architecture.output_shape
    assert architecture.input_dtype == ("float32" if vocabulary is None else "int64")


@pytest.mark.parametrize("name", NETWORKS)
def test_a_training_step_gives_the_same_gradients_and_running_statistics(name):
    module, architecture = captured(*NETWORKS[name])
    built = architecture.build(architecture.weights_of(module)).double().train()
    x = example(*NETWORKS[name][1:], count=5)
    there, here = first(module.train()(x)), built(x)
    torch.testing.assert_close(here, there, rtol=1e-9, atol=1e-10)
    target = torch.randn_like(there)
    (there * target).sum().backward()
    (here * target).sum().backward()
    parameters = dict(module.named_parameters(remove_duplicate=False))
    owned = dict(built.named_parameters())
    assert len(owned) == len({id(value) for value in parameters.values()})
    for key, value in owned.items():
        expected = parameters[architecture.sources[key]].grad
        expected = torch.zeros_like(value) if expected is None else expected
        torch.testing.assert_close(value.grad, expected, rtol=1e-7, atol=1e-9)
    buffers = dict(module.named_buffers())
    for key in architecture.statistics:
        expected = buffers[architecture.sources[key]]
        torch.testing.assert_close(built.state()[key], expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", [*NETWORKS, *DROPPING])
def test_two_captures_have_one_address_whatever_the_weights(name):
    make, shape, vocabulary = {**NETWORKS, **DROPPING}[name]
    _, one = captured(make, shape, vocabulary)
    torch.manual_seed(9)
    other = Architecture.capture(make().eval(), example(shape, vocabulary, 2, torch.float32))
    assert one.cid == other.cid
    assert Architecture.decode(one.encode()) == one


@pytest.mark.parametrize("name", ["resnet", "gpt", "torch transformer", "gru, both ways"])
def test_weights_and_statistics_make_the_round_trip(name):
    module, architecture = captured(*NETWORKS[name])
    for buffer in module.buffers():
        if buffer.is_floating_point() and buffer.dim() == 1:
            buffer += torch.rand_like(buffer)
    weights = architecture.weights_of(module)
    assert list(weights) == sorted(architecture.parameter_shapes)
    assert not any("num_batches" in path for path in architecture.sources.values())
    again = Architecture.from_dict(architecture.to_dict()).weights_of(copy.deepcopy(module))
    assert all(np.array_equal(weights[key], again[key]) for key in weights)
    back = architecture.weights_of(architecture.build(weights).double())
    assert all(np.array_equal(weights[key], back[key]) for key in weights)
    for key in architecture.statistics:
        there = dict(module.named_buffers())[architecture.sources[key]]
        assert np.array_equal(weights[key], there.numpy())


def test_weight_tying_is_kept():
    _, architecture = captured(*NETWORKS["gpt"])
    tied = [node for node in architecture.nodes if node.shared]
    assert [node.operator for node in tied] == ["linear"]
    assert dict(tied[0].shared)["weight"].startswith("embedding")
    _, by_hand = captured(*NETWORKS["windowed attention"])
    assert by_hand.parameter_count == 9 * 8 + 12 * 8 + 4 * (8 * 8 + 8)


@pytest.mark.parametrize("name", DROPPING)
def test_dropout_drops_in_training_and_not_in_evaluation(name):
    module, architecture = captured(*DROPPING[name])
    built = architecture.build(architecture.weights_of(module)).double()
    x = example(*DROPPING[name][1:], count=2)
    assert not torch.equal(built.train()(x), built(x))
    assert torch.equal(built.eval()(x), built(x))
    kinds = {node.operator: dict(node.arguments.items).get("p") for node in architecture.nodes}
    assert any(p for p in kinds.values())


def test_ways_to_write_attention_have_one_address():
    shape, vocabulary = NETWORKS["vit"][1:]
    addresses = {
        how: captured(lambda how=how: VisionTransformer(how), shape, vocabulary)[1].cid
        for how in ("timm", "indexed", "unpacked")
    }
    assert len(set(addresses.values())) == 1
    by_hand = captured(lambda: VisionTransformer("chunk"), shape, vocabulary)[1]
    by_name = captured(lambda: VisionTransformer("sdpa"), shape, vocabulary)[1]
    assert by_hand.cid == by_name.cid


def test_a_causal_mask_by_hand_and_by_name_have_one_address():
    by_hand, by_name = (
        captured(lambda flash=flash: GPT(flash, dropout=0.2), (6,), 11)[1] for flash in (0, 1)
    )
    assert by_hand.cid == by_name.cid
    kinds = [node.operator for node in by_hand.nodes]
    assert kinds.count("attention") == 2
    assert "constant" not in kinds


def test_the_last_state_of_an_lstm_is_its_last_output():
    addresses = {
        captured(lambda take=take: SeriesLSTM(take=take), *SERIES)[1].cid for take in ("out", "h")
    }
    assert len(addresses) == 1
