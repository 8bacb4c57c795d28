"""Text to token ids and back, by a checkpoint's own tokenizer.json and chat template.

A control token (mask, end of text, turn markers, ...) can come from the chat template and never from the words of a
user: inside the tokenizer every control token goes by a private character instead of its literal. The literals that
the template itself wrote are exchanged for these characters after rendering; the same letters inside a message stay
letters. One call then encodes the whole string, so prefix spaces and normalisation are those of the original.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxdlm import chat
from jaxdlm.checkpoint.strict_json import read_object
from jaxdlm.errors import InputError

ALIAS = 0x100000  # first alias: private characters, which no text contains
GUARD = chr(0x10FFFD)  # stands inside a control literal that a user wrote until the template is rendered
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

# Pre-tokenisation of the byte-level vocabularies that ship vocab.json and merges.txt alone (Qwen2 and its descendants)
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """Encodes prompts and chats, decodes answers.

    Attributes:
        backend: `tokenizers.Tokenizer` whose control tokens go by their aliases.
        aliases: control literal -> private character.
        control: ids of the control tokens; never decoded, never read from a user's text.
        template: Jinja chat template, or None.
        names: special tokens by name, as the template sees them.
        eos: ids that end an answer. bos, pad: ids, or None.
        lead_bos: every prompt starts with bos, whatever the template does.
        prompt_lengths: a chat is padded on the right with `pad` to the smallest of these that holds it; () for no.
        join_words: tokens are words, see `join`.
        closed: the vocabulary has no way to spell an unknown word.
        examples: prompts that work, for messages.
    """

    backend: Any
    aliases: Mapping[str, str]
    control: frozenset[int]
    template: str | None
    names: Mapping[str, Any]
    eos: tuple[int, ...]
    bos: int | None
    pad: int | None
    lead_bos: bool = False
    prompt_lengths: tuple[int, ...] = ()
    join_words: bool = False
    closed: bool = False
    examples: tuple[str, ...] = ()

    @classmethod
    def from_folder(
        cls,
        folder: pathlib.Path,
        *,
        eos: Iterable[int] = (),
        pad: int | None = None,
        mask: int | None = None,
        lead_bos: bool = False,
    ) -> "Tokenizer | None":
        """Tokenizer of a checkpoint folder; None if it has neither tokenizer.json nor vocab.json with merges.txt.

        Args: eos, pad, mask: ids that the model's own configuration names (they add to the tokenizer's).
        Raises InputError where a file does not parse or the parts disagree.
        """
        settings = (
            read_object(folder / "tokenizer_config.json", folder) if (folder / "tokenizer_config.json").exists() else {}
        )
        if (folder / "tokenizer.json").exists():
            spec = read_object(folder / "tokenizer.json", folder)
        elif (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
            spec = _byte_level_spec(folder, settings)
        else:
            return None
        return build(spec, settings, _template(folder, settings), eos=eos, pad=pad, mask=mask, lead_bos=lead_bos)

    def encode_prompt(self, prompt: str | Sequence[chat.Message], *, raw: bool = False) -> list[int]:
        """Ids of a prompt: a string is one user message where there is a chat template, else (or if raw) plain text."""
        if not isinstance(prompt, str):
            return self.encode_chat(prompt)
        if raw or self.template is None:
            return self.encode(prompt)
        return self.encode_chat([{"role": "user", "content": prompt}])

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, after the tokens that the tokenizer puts in front of every text (usually bos)."""
        if not text.strip():
            raise InputError("the prompt is empty: give it at least one word")
        return self._with_bos(self._encode(self._checked(text), add_special_tokens=True))

    def encode_chat(self, messages: Sequence[chat.Message]) -> list[int]:
        """Ids of messages [{"role", "content"}, ...] in the chat template, with the assistant's turn opened."""
        if self.template is None:
            raise InputError("this tokenizer has no chat template: pass a string, or token ids")
        for index, message in enumerate(messages):
            if not (isinstance(message, Mapping) and "role" in message and "content" in message):
                raise InputError(f"message {index} is not {{'role': ..., 'content': ...}}: {message!r:.80}")
        if not any(str(message["content"] or "").strip() for message in messages):
            raise InputError("the prompt is empty: give at least one message with a word in it")
        rendered = chat.render(self.template, self._guarded(messages), self.names)
        text = self._literals.sub(lambda found: self.aliases[found.group()], rendered).replace(GUARD, "")
        ids = self._with_bos(self._encode(text, add_special_tokens=False))
        return self._padded(ids)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids up to the first end-of-text id (not included), without control tokens."""
        kept: list[int] = []
        for token in map(int, ids):
            if token in self.eos:
                break
            if token not in self.control:
                kept.append(token)
        if self.join_words:
            return join(word for word in map(self.backend.id_to_token, kept) if word is not None)
        return self.backend.decode(kept, skip_special_tokens=False)

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """What each id adds to the text; a control token shows as its literal, an id without letters as nothing.

        The pieces of ordinary ids joined are their decoded text. A character spelled by several ids stands whole at the
        last of them.
        """
        literal = {self.backend.token_to_id(alias): name for name, alias in self.aliases.items()}
        shown: list[str] = []
        kept: list[int] = []
        before = ""
        for token in map(int, ids):
            if token in literal:
                shown.append(literal[token])
                continue
            kept.append(token)
            words = (self.backend.id_to_token(each) for each in kept)
            text = (
                join(filter(None, words)) if self.join_words else self.backend.decode(kept, skip_special_tokens=False)
            )
            complete = text.rstrip("\ufffd")
            shown.append(complete[len(before) :])
            before = complete if len(complete) > len(before) else before
        return shown

    @property
    def size(self) -> int:
        """Number of ids, control tokens included."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    @property
    def _literals(self) -> re.Pattern[str]:
        """Any control literal, the longest first, as the tokenizer itself would match (`re` caches the pattern)."""
        return re.compile("|".join(map(re.escape, sorted(self.aliases, key=len, reverse=True))) or r"(?!)")

    def _guarded(self, value: Any) -> Any:
        """The same messages in plain JSON types, with a guard inside every control literal of their strings.

        A string that could form a literal together with what the template writes before or after it gets a guard
        at that end; any other string stays as it is, so that templates may trim, split or compare it. Roles are for
        the template to complete, as in `<|{{ role }}|>`.
        """
        if isinstance(value, Mapping):
            return {
                str(key): self._broken(item) if key == "role" and isinstance(item, str) else self._guarded(item)
                for key, item in value.items()
            }
        if isinstance(value, list | tuple):
            return [self._guarded(item) for item in value]
        if not isinstance(value, str):
            return value if isinstance(value, int | float | None) else str(value)
        text = self._broken(value)
        core = text.strip()  # templates trim
        if not core:
            return text
        within = any(core in literal for literal in self.aliases)
        starts = within or any(
            core.startswith(literal[cut:]) for literal in self.aliases for cut in range(1, len(literal))
        )
        ends = within or any(core.endswith(literal[:cut]) for literal in self.aliases for cut in range(1, len(literal)))
        before, after = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
        return before + GUARD * starts + core + GUARD * ends + after

    def _broken(self, text: str) -> str:
        """text with a guard inside every control literal."""
        return self._literals.sub(lambda found: found.group()[0] + GUARD + found.group()[1:], self._checked(text))

    def _checked(self, text: str) -> str:
        for column, character in enumerate(text):
            if ord(character) >= ALIAS:
                raise InputError(
                    f"the prompt holds the private character U+{ord(character):X} at {column}: remove it, it is no text"
                )
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"the prompt is not valid text at {error.start}: it holds half of a surrogate pair"
            ) from None
        return text

    def _encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        encoding = self.backend.encode(text, add_special_tokens=add_special_tokens)
        if self.closed:
            unknown = self.backend.token_to_id(self.backend.model.unk_token)
            for token, (start, end) in zip(encoding.ids, encoding.offsets):
                if token == unknown:
                    self._refuse(text, start, end)
        return list(encoding.ids)

    def _refuse(self, text: str, start: int, end: int):
        while start > 0 and text[start - 1].isalnum():
            start -= 1
        while end < len(text) and text[end].isalnum():
            end += 1
        shown = "; ".join(repr(example) for example in self.examples[:3])
        hint = f": prompts that work are {shown} (jaxdlm examples prints more)" if shown else ""
        raise InputError(f"unknown word {text[start:end]!r}: this model has a closed vocabulary{hint}")

    def _with_bos(self, ids: list[int]) -> list[int]:
        """ids with one bos in front, never two, where the model wants it."""
        if self.bos is None:
            return ids
        while len(ids) > 1 and ids[0] == ids[1] == self.bos:
            ids = ids[1:]
        return [self.bos, *ids] if self.lead_bos and ids[:1] != [self.bos] else ids

    def _padded(self, ids: list[int]) -> list[int]:
        if not self.prompt_lengths:
            return ids
        for length in sorted(self.prompt_lengths):
            if len(ids) <= length:
                return ids + [self.pad or 0] * (length - len(ids))
        raise InputError(
            f"the prompt has {len(ids)} tokens, but this model reads at most {max(self.prompt_lengths)}: shorten it"
        )


def build(
    spec: Mapping[str, Any],
    settings: Mapping[str, Any],
    template: str | None,
    *,
    eos: Iterable[int] = (),
    pad: int | None = None,
    mask: int | None = None,
    lead_bos: bool = False,
) -> Tokenizer:
    """Tokenizer from the contents of tokenizer.json (spec), tokenizer_config.json (settings) and a chat template.

    Control tokens are those marked special, those that settings name, and the model's mask, eos and pad ids.
    """
    from tokenizers import Tokenizer as Backend

    original = _parse(Backend, spec)
    names = {name: _content(settings[name]) for name in NAMED if settings.get(name) is not None}
    literals = {entry["content"] for entry in spec.get("added_tokens", ()) if entry.get("special")} | set(
        names.values()
    )
    extra = settings.get("additional_special_tokens") or settings.get("extra_special_tokens") or ()
    literals |= {_content(entry) for entry in (extra.values() if isinstance(extra, Mapping) else extra)}
    literals |= {original.id_to_token(token) for token in (*eos, pad, mask) if token is not None}
    known = sorted(literal for literal in literals if literal and original.token_to_id(literal) is not None)
    aliases = {literal: chr(ALIAS + index) for index, literal in enumerate(known)}
    backend = _parse(Backend, _aliased(spec, aliases))
    ids = {literal: original.token_to_id(literal) for literal in known}
    moved = [literal for literal in known if backend.token_to_id(aliases[literal]) != ids[literal]]
    if moved:
        raise InputError(f"tokenizer.json gives the control token {moved[0]!r} two ids: fix added_tokens")
    eos_name = names.get("eos_token")
    ends = {*eos, *([ids[eos_name]] if eos_name in ids else [])}
    pad_id = ids.get(names.get("pad_token", ""), pad) if pad is None else pad
    return Tokenizer(
        backend=backend,
        aliases=aliases,
        control=frozenset(ids.values()),
        template=template,
        names={**names, "additional_special_tokens": list(map(_content, extra))},
        eos=tuple(sorted(ends)),
        bos=ids.get(names.get("bos_token", "")),
        pad=pad_id,
        lead_bos=lead_bos,
        prompt_lengths=tuple(settings.get("jaxdlm_prompt_lengths") or ()),
        join_words=settings.get("jaxdlm_join") == "words",
        closed=(spec.get("model") or {}).get("type") == "WordLevel",
        examples=tuple(settings.get("jaxdlm_examples") or ()),
    )


def join(words: Iterable[str]) -> str:
    """Words to text: one space between them, none between digits, around a newline or after an indent."""
    pieces: list[str] = []
    before = "\n"
    for word in words:
        glued = before.isspace() or word == "\n" or (before.isdigit() and word.isdigit())
        pieces.append(word if glued else " " + word)
        before = word
    return "".join(pieces)


def _parse(backend, spec: Mapping[str, Any]):
    try:
        return backend.from_str(json.dumps(spec))
    except Exception as error:  # the bindings raise bare Exception
        raise InputError(f"tokenizer.json does not parse ({error}): fetch it again") from None


def _content(token: Any) -> str:
    """A special token is written as a string or as {"content": ...}."""
    return token["content"] if isinstance(token, Mapping) else str(token)


def _aliased(spec: Mapping[str, Any], aliases: Mapping[str, str]) -> dict[str, Any]:
    """tokenizer.json with every control token under its alias, in the added tokens and in the model's vocabulary."""
    model = dict(spec["model"])
    vocab = model.get("vocab")
    if isinstance(vocab, Mapping):
        model["vocab"] = {aliases.get(word, word): index for word, index in vocab.items()}
    elif vocab:
        model["vocab"] = [[aliases.get(word, word), score] for word, score in vocab]
    if isinstance(model.get("unk_token"), str):
        model["unk_token"] = aliases.get(model["unk_token"], model["unk_token"])
    if model.get("merges"):  # a merge that spells a control token would name a word that is gone
        pairs = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"]]
        model["merges"] = [[a, b] for a, b in pairs if not {a, b, a + b} & aliases.keys()]
    added = []
    for entry in spec.get("added_tokens", ()):
        if entry["content"] in aliases:
            # matched before normalisation, which could not recognise the alias
            entry = {**entry, "content": aliases[entry["content"]], "normalized": False, "special": True}
        added.append(entry)
    listed = {entry["content"] for entry in added}
    if isinstance(vocab, Mapping):  # control tokens that are named in the settings only
        for literal, alias in aliases.items():
            if alias not in listed:
                plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
                added.append({"id": vocab[literal], "content": alias, **plain})
    return {**spec, "model": model, "added_tokens": added, "padding": None, "truncation": None}


def _template(folder: pathlib.Path, settings: Mapping[str, Any]) -> str | None:
    """chat_template.jinja, else chat_template.json, else the entry of tokenizer_config.json (the default one)."""
    if (folder / "chat_template.jinja").exists():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if (folder / "chat_template.json").exists():
        template = read_object(folder / "chat_template.json", folder).get("chat_template")
    if isinstance(template, list):
        named = {entry["name"]: entry["template"] for entry in template}
        template = named.get("default")
    return template


def _byte_level_spec(folder: pathlib.Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """tokenizer.json's contents for a folder with vocab.json and merges.txt alone, as Qwen2 and Dream ship them."""
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    added = [
        {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False, **entry}
        | {"id": int(index)}
        for index, entry in settings.get("added_tokens_decoder", {}).items()
    ]
    split = {"type": "Split", "pattern": {"Regex": QWEN_SPLIT}, "behavior": "Isolated", "invert": False}
    model = {"type": "BPE", "vocab": read_object(folder / "vocab.json", folder), "merges": merges}
    unset = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")
    return {
        "version": "1.0",
        "added_tokens": sorted(added, key=lambda entry: entry["id"]),
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": model | dict.fromkeys(unset) | {"fuse_unk": False, "byte_fallback": False, "ignore_merges": False},
    }
