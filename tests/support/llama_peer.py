"""llama.cpp on one GGUF file, as a script in a process of its own.

    python tests/support/llama_peer.py <folder of its libraries> <file> < request.json > answer.json

The libraries are those that ``make llama`` fetches. Called through ctypes: llama.cpp's C interface
passes its settings by value, in structures whose first fields are known here and whose rest stays
as llama.cpp set it. The template engine has only a C++ interface; its strings are laid out by hand.

A request holds any of ``texts`` to encode, ``ids`` to compute logits for, ``prompt`` ids to
continue greedily for ``num_tokens``; every answer holds the rendered ``example`` conversation.
"""

from __future__ import annotations

import ctypes
import json
import sys
from ctypes import POINTER, byref, c_char_p, c_float, c_int32, c_size_t, c_uint32, c_void_p
from pathlib import Path
from typing import Any

SPARE_BYTES = 1024  # more than any of the structures has
F16, F32 = 1, 0  # ggml_type
# As libstdc++ spells them in libllama-common.
INIT_TEMPLATES = (
    "_Z26common_chat_templates_initPK11llama_modelRKNSt7__cxx1112basic_stringIcSt11char_traitsIcE"
    "SaIcEEES9_S9_"
)
RENDER_EXAMPLE = (
    "_Z26common_chat_format_examplePK21common_chat_templatesbRKSt3mapINSt7__cxx1112basic_stringIcS"
    "t11char_traitsIcESaIcEEES8_St4lessIS8_ESaISt4pairIKS8_S8_EEE"
)


class ModelParams(ctypes.Structure):
    _fields_ = [("rest", ctypes.c_byte * SPARE_BYTES)]


class ContextParams(ctypes.Structure):
    """The beginning of llama_context_params of llama.cpp v0.5.0."""

    _fields_ = [
        *((name, c_uint32) for name in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max")),
        *((name, c_uint32) for name in ("n_rs_seq", "n_outputs_max", "n_outputs_max_per_seq")),
        *((name, c_int32) for name in ("n_threads", "n_threads_batch")),
        *((f"{name}_type", c_int32) for name in ("ctx", "rope", "pooling", "attention", "flash")),
        ("floats", c_float * 6),
        ("yarn_orig_ctx", c_uint32),
        ("defrag_thold", c_float),
        ("cb_eval", c_void_p),
        ("cb_eval_user_data", c_void_p),
        ("type_k", c_int32),
        ("type_v", c_int32),
        ("rest", ctypes.c_byte * SPARE_BYTES),
    ]


class Batch(ctypes.Structure):
    _fields_ = [("n_tokens", c_int32), ("pointers", c_void_p * 6)]


class CppString(ctypes.Structure):
    """std::string of libstdc++."""

    _fields_ = [("data", c_void_p), ("size", c_size_t), ("buffer", ctypes.c_char * 16)]

    @classmethod
    def empty(cls) -> CppString:
        made = cls()
        made.data = ctypes.addressof(made) + cls.buffer.offset
        return made


class CppMap(ctypes.Structure):
    """std::map of libstdc++."""

    _fields_ = [
        ("compare", c_size_t), ("color", c_size_t), ("root", c_void_p),
        ("first", c_void_p), ("last", c_void_p), ("size", c_size_t),
    ]  # fmt: skip

    @classmethod
    def empty(cls) -> CppMap:
        made = cls()
        made.first = made.last = ctypes.addressof(made) + cls.color.offset
        return made


class Llama:
    """One loaded file."""

    def __init__(self, libraries: Path, file: Path) -> None:
        ggml, self.llama, self.common = load_libraries(libraries)
        ggml.ggml_backend_load_all_from_path(str(libraries).encode())
        self.llama.llama_log_set(_SILENT, None)
        self.model = c_void_p(
            self.llama.llama_model_load_from_file(
                str(file).encode(), self.llama.llama_model_default_params()
            )
        )
        assert self.model, f"llama.cpp does not load {file}"
        self.vocab = c_void_p(self.llama.llama_model_get_vocab(self.model))
        self.num_entries = self.llama.llama_vocab_n_tokens(self.vocab)

    def encode(self, text: str, *, add_special: bool = False, special: bool = False) -> list[int]:
        data = text.encode()
        ids = (c_int32 * (len(data) + 2))()
        count = self.llama.llama_tokenize(
            self.vocab, data, len(data), ids, len(ids), add_special, special
        )
        assert count >= 0
        return list(ids[:count])

    def start(self) -> c_void_p:
        params = self.llama.llama_context_default_params()
        assert (params.type_k, params.type_v) == (F16, F16), "another layout than v0.5.0's"
        params.n_ctx = params.n_batch = params.n_ubatch = 512
        params.n_threads = params.n_threads_batch = 1
        params.type_k = params.type_v = F32
        params.flash_type = 0
        return c_void_p(self.llama.llama_init_from_model(self.model, params))

    def step(self, context: c_void_p, ids: list[int]) -> list[float]:
        tokens = (c_int32 * len(ids))(*ids)
        code = self.llama.llama_decode(
            context, self.llama.llama_batch_get_one(tokens, c_int32(len(ids)))
        )
        assert code == 0, f"llama_decode answered {code}"
        return self.llama.llama_get_logits_ith(context, c_int32(-1))[: self.num_entries]

    def logits(self, ids: list[int]) -> list[list[float]]:
        context = self.start()
        return [self.step(context, [index]) for index in ids]

    def last_logits(self, ids: list[int]) -> list[float]:
        return self.step(self.start(), ids)

    def greedy(self, ids: list[int], num_tokens: int) -> list[int]:
        context, output = self.start(), []
        logits = self.step(context, ids)
        while len(output) < num_tokens:
            output.append(max(range(len(logits)), key=logits.__getitem__))
            logits = self.step(context, output[-1:])
        return output

    def example(self) -> str:
        """Return llama.cpp's example conversation, rendered with the file's template."""
        texts = [CppString.empty() for _ in range(3)]
        templates = c_void_p()
        init = self.common[INIT_TEMPLATES]
        init.restype = None
        init(byref(templates), self.model, *(byref(text) for text in texts))
        render = self.common[RENDER_EXAMPLE]
        render.restype = None
        answer, settings = CppString.empty(), CppMap.empty()
        render(byref(answer), templates, ctypes.c_bool(True), byref(settings))
        return ctypes.string_at(answer.data, answer.size).decode()


_SILENT = ctypes.CFUNCTYPE(None, c_int32, c_char_p, c_void_p)(lambda *_: None)


def load_libraries(folder: Path) -> tuple[Any, Any, Any]:
    ggml, llama, common = (
        ctypes.CDLL(str(next(folder.glob(pattern))), ctypes.RTLD_GLOBAL)
        for pattern in ("libggml.*so*", "libllama.*so*", "libllama-common*.so*")
    )
    llama.llama_model_default_params.restype = ModelParams
    llama.llama_context_default_params.restype = ContextParams
    llama.llama_batch_get_one.restype = Batch
    llama.llama_model_load_from_file.argtypes = [c_char_p, ModelParams]
    llama.llama_init_from_model.argtypes = [c_void_p, ContextParams]
    llama.llama_decode.argtypes = [c_void_p, Batch]
    for name in ("model_load_from_file", "model_get_vocab", "init_from_model"):
        getattr(llama, f"llama_{name}").restype = c_void_p
    llama.llama_get_logits_ith.restype = POINTER(c_float)
    return ggml, llama, common


def main() -> None:
    libraries, file = map(Path, sys.argv[1:])
    request = json.load(sys.stdin)
    llama = Llama(libraries, file)
    answer: dict[str, Any] = {"example": llama.example()}
    if "texts" in request:
        answer["texts"] = [llama.encode(text) for text in request["texts"]]
        answer["with_bos"] = llama.encode("x", add_special=True)
    if "rendered" in request:
        answer["rendered"] = llama.encode(request["rendered"], special=True)
    if "ids" in request:
        answer["logits"] = llama.logits(request["ids"])
        answer["last_logits"] = llama.last_logits(request["ids"])
    if "prompt" in request:
        answer["output"] = llama.greedy(request["prompt"], request["num_tokens"])
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
