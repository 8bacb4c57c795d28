"""Text to token ids and back, by a checkpoint's own tokenizer.json and chat template.

A control token (mask, end of text, turn markers, ...) can come from the chat template and never from the words of a
user: inside the tokenizer every control token goes by a private character instead of its literal, and the template's
own literals are exchanged for these characters before it is rendered (`jaxdlm.controls`). One call then encodes the
whole string, so prefix spaces and normalisation are those of the original.
"""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jaxdlm import chat, tokenizer_checks
from jaxdlm.checkpoint.strict_json import read_object, uncollected
from jaxdlm.checkpoint.tokenizer_config import byte_level_spec, read_settings, template_of
from jaxdlm.controls import Controls, aliases_of, checked
from jaxdlm.errors import InputError
from jaxdlm.messages import OPENED, Form, before_mark, marked
from jaxdlm.tokenizer_spec import aliased, glued, is_word, named_tokens, own_settings, stated_ids


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """Encodes prompts and chats, decodes answers.

    Attributes:
        backend: `tokenizers.Tokenizer` whose control tokens go by their aliases.
        aliases: control literal -> private character.
        control: ids of the control tokens; never decoded, never read from a user's text.
        template: Jinja chat template, or None.
        names: special tokens by name.
        eos: ids that end an answer: those that the model's files name, the tokenizer's, and the end of a turn in the
            chat template. bos, pad: ids, or None. Such an id that no file of the tokenizer calls special is a word.
        mask: the model's mask id, or None. A prompt whose words spell it, where no file calls it special, is refused.
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
    mask: int | None = None
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
        table: Mapping[str, Any] | None = None,
    ) -> "Tokenizer | None":
        """Tokenizer of a checkpoint folder; None if it has neither tokenizer.json nor vocab.json with merges.txt.

        Args: eos, pad, mask: ids that the model's own configuration names (they add to the tokenizer's); table:
        tokenizer.json, where it was read already.
        Raises InputError where a file does not parse or the parts disagree.
        """
        settings = read_settings(folder)
        if (folder / "tokenizer.json").exists():
            spec: Mapping[str, Any] = table or read_object(folder / "tokenizer.json", folder)
        elif (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
            spec = byte_level_spec(folder, settings)
        else:
            return None
        template = template_of(folder, settings, 4 * chat.MAX_TEMPLATE)
        return build(spec, settings, template, eos=eos, pad=pad, mask=mask, lead_bos=lead_bos)

    @classmethod
    def from_documents(cls, documents: Mapping[str, Any], **ids: Any) -> "Tokenizer | None":
        """The same from the contents of tokenizer.json and tokenizer_config.json, by their names."""
        if "tokenizer.json" not in documents:
            return None
        settings = documents["tokenizer_config.json"]
        return build(documents["tokenizer.json"], settings, settings.get("chat_template"), **ids)

    def encode_prompt(
        self, prompt: str | Sequence[chat.Message], *, raw: bool = False, form: Form | None = None
    ) -> list[int]:
        """Ids of a prompt: a string is one user message where there is a chat template, else (or if raw) plain text.

        Where the assistant has the last word of a chat, the answer goes on with it, unless `form` says otherwise. Raises
        InputError for what `form` asks of plain text.
        """
        form = Form() if form is None else form
        if not isinstance(prompt, str):
            return self.encode_chat(prompt, form)
        if raw or self.template is None:
            if form.stated:
                why = "raw=True passes the chat template by" if raw else "this tokenizer has no chat template"
                raise InputError(f"{form.stated[0]} is for chat templates, and {why}: leave one of them out")
            return self.encode(prompt)
        return self.encode_chat([{"role": "user", "content": prompt}], form)

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, after the tokens that the tokenizer puts in front of every text (usually bos)."""
        if not text.strip():
            raise InputError("the prompt is empty: give it at least one word")
        return self._with_bos(self._encode(checked(text), add_special_tokens=True))

    def encode_inside(self, text: str) -> list[int]:
        """Ids of text in the middle of a text: without what the tokenizer puts before and behind a whole one."""
        return self._encode(checked(text), add_special_tokens=False)

    @functools.cached_property
    def front(self) -> list[int]:
        """The ids that stand before every text, usually bos or nothing."""
        encoding = self.backend.encode("a", add_special_tokens=True)
        added = itertools.takewhile(lambda pair: pair[1], zip(encoding.ids, encoding.special_tokens_mask))
        return self._with_bos([token for token, _ in added])

    def encode_chat(self, messages: Sequence[chat.Message], form: Form = OPENED) -> list[int]:
        """Ids of messages [{"role", "content"}, ...] in the chat template, with the assistant's turn opened.

        What messages may hold says `jaxdlm.messages.plain`, what else there may be `Form`: words of the assistant's that the
        answer goes on with stand behind the padding of a model whose prompts are padded. Raises InputError for anything else.
        """
        if self.template is None:
            raise InputError("this tokenizer has no chat template: pass a string, or token ids")
        whole, begun = self.render(messages, form=form), ""
        if self.prompt_lengths and form.resumed(form.chat(messages)) is not None:
            head = self.render(messages[:-1], form=form._replace(resume=False))  # with the turn opened
            if not whole.startswith(head):
                raise InputError(
                    "the chat template opens the assistant's turn otherwise than it writes one: leave it out"
                )
            whole, begun = head, whole.removeprefix(head)
        ids = self._with_padding(self._with_bos(self._encode(whole, add_special_tokens=False)))
        return [*ids, *self._encode(begun, add_special_tokens=False)] if begun else ids

    def render(self, messages: Sequence[chat.Message], opened: bool = True, form: Form = OPENED) -> str:
        """The chat as text in which control tokens are private characters; opened: for the assistant's words."""
        controls = self.controls
        variables = dict(form.variables) | ({} if form.tools is None else {"tools": list(form.tools)})
        for name in variables:
            if name in self.names:
                raise InputError(f"chat_template_kwargs: {name} is the tokenizer's own: leave it out")
        read = form.chat(messages)
        field = form.resumed(read) if opened else None
        shown, opened = (read, opened) if field is None else (marked(read, field), False)
        try:
            text = controls.close(chat.render(self.template or "", shown, self.names, controls, opened, variables))
            if form.system is not None and read[0]["content"] == form.system and form.system.strip() not in text:
                raise InputError("the chat template leaves the system's words out: write them into the user's message")
            return text if field is None else before_mark(text, read, field)
        except InputError as error:
            raise InputError(controls.spell(str(error))) from None

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids up to the first end-of-text id (not included), without control tokens."""
        text_ids: list[int] = []
        for token in map(int, ids):
            if token in self.eos:
                break
            if token not in self.control:
                text_ids.append(token)
        if self.join_words:
            return join(word for word in map(self.backend.id_to_token, text_ids) if word is not None)
        return self.backend.decode(text_ids, skip_special_tokens=False)

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """The text that each id adds; a control token shows as its literal, an id without letters as nothing.

        The pieces of ordinary ids joined are their decoded text. A character spelled by several ids stands whole at the
        last of them.
        """
        named = {self.backend.token_to_id(alias): literal for literal, alias in self.aliases.items()}
        shown: list[str] = []
        text_ids: list[int] = []
        before = ""
        for token in map(int, ids):
            if token in named:
                shown.append(named[token])
                continue
            text_ids.append(token)
            words = (self.backend.id_to_token(each) for each in text_ids)
            text = (
                join(filter(None, words))
                if self.join_words
                else self.backend.decode(text_ids, skip_special_tokens=False)
            )
            complete = text.rstrip("\ufffd")
            shown.append(complete[len(before) :])
            before = complete if len(complete) > len(before) else before
        return shown

    @property
    def size(self) -> int:
        """Number of ids, control tokens included."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    @functools.cached_property
    def controls(self) -> Controls:
        """The marks by which the template's control tokens differ from the words of messages."""
        return Controls(self.aliases)

    def literal(self, token: int) -> str | None:
        """A token as its files write it; None for an id that the tokenizer does not have."""
        word = self.backend.id_to_token(token)
        return None if word is None else self.controls.spell(word)

    @property
    def words(self) -> dict[str, int]:
        """The whole vocabulary as its files write it, with ids."""
        return {self.controls.spell(word): index for word, index in self.backend.get_vocab().items()}

    def _encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        encoding = self.backend.encode(text, add_special_tokens=add_special_tokens)
        if self.closed:
            unknown = self.backend.token_to_id(self.backend.model.unk_token)
            for token, (start, end) in zip(encoding.ids, encoding.offsets):
                if token == unknown:
                    self._refuse(text, start, end)
        if self.mask is not None and self.mask in encoding.ids:
            self._refuse_mask(self.mask, encoding.ids, text)
        return list(encoding.ids)

    def _refuse_mask(self, mask: int, ids: Sequence[int], text: str) -> None:
        """InputError if words became the mask, as a word that the model takes for it or as letters that nobody knows."""
        literal = self.literal(mask)
        alias = self.aliases.get(literal or "")
        if list(ids).count(mask) > (0 if alias is None else text.count(alias)):
            raise InputError(
                f"the prompt spells {literal!r:.60}, which this model takes for its mask token (id {mask}): write it "
                f"otherwise, or pass token ids"
            )

    def _refuse(self, text: str, start: int, end: int):
        while start > 0 and text[start - 1].isalnum():
            start -= 1
        while end < len(text) and text[end].isalnum():
            end += 1
        shown = "; ".join(repr(example) for example in self.examples[:3])
        hint = f": prompts that work are {shown} (jaxdlm examples prints more)" if shown else ""
        raise InputError(f"unknown word {text[start:end]!r:.60}: this model has a closed vocabulary{hint}")

    def _with_bos(self, ids: list[int]) -> list[int]:
        """ids with one bos in front, never two, where the model wants it."""
        if self.bos is None:
            return ids
        while len(ids) > 1 and ids[0] == ids[1] == self.bos:
            ids = ids[1:]
        return [self.bos, *ids] if self.lead_bos and ids[:1] != [self.bos] else ids

    def _with_padding(self, ids: list[int]) -> list[int]:
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

    Control tokens are those marked special, those that settings name, and the model's mask where it is an added token.
    An end or a pad that the model's files name and none of the tokenizer's stays the word that it is, and so does
    whatever is a single letter or white space, however it is marked: no text could do without.
    """
    from tokenizers import Tokenizer as Backend

    if template is not None:
        chat.prepare()
    own = own_settings(settings)
    tokenizer_checks.check(spec)
    with tokenizer_checks.parsing():
        names, special, added = named_tokens(spec, settings)
        find = stated_ids(spec)
    backend, ids, aliases, moved = _under_aliases(Backend, spec, special, added, mask, find)
    if moved:  # the library has its own mind about ids that the file leaves out
        find = tokenizer_checks.Backend(Backend, spec).token_to_id
        backend, ids, aliases, moved = _under_aliases(Backend, spec, special, added, mask, find)
    if moved:
        raise InputError(f"tokenizer.json gives the control token {moved[0]!r:.60} two ids: fix added_tokens")
    end = ids.get(names.get("eos_token", ""))
    tokenizer = Tokenizer(
        backend=backend,
        aliases=aliases,
        control=frozenset([*(ids[literal] for literal in aliases), *([] if mask is None else [mask])]),
        template=template,
        names=names,
        eos=(*eos, *([] if end is None else [end])),
        bos=ids.get(names.get("bos_token", "")),
        pad=ids.get(names.get("pad_token", "")) if pad is None else pad,
        mask=mask,
        lead_bos=lead_bos,
        closed=(spec.get("model") or {}).get("type") == "WordLevel",
        **own,
    )
    return dataclasses.replace(tokenizer, eos=tuple(dict.fromkeys((*tokenizer.eos, *_turn_end(tokenizer)))))


@uncollected()
def _under_aliases(
    library: Any,
    spec: Mapping[str, Any],
    special: set[str],
    added: set[str],
    mask: int | None,
    find: Callable[[str], Any],
) -> tuple[tokenizer_checks.Backend, dict[str, Any], dict[str, str], list[str]]:
    """(tokenizer, ids of control tokens by literal, their aliases, literals whose alias has another id than `find` says).

    One build of a tokenizer with 262,144 words takes a second, and so the ids come out of the file.
    """
    controls = special | {literal for literal in added if mask is not None and find(literal) == mask}
    ids = {literal: find(literal) for literal in controls}
    aliases = aliases_of(sorted(each for each, index in ids.items() if index is not None and not is_word(each)))
    with tokenizer_checks.parsing():
        renamed = aliased(spec, aliases, controls)
    backend = tokenizer_checks.Backend(library, renamed)
    return backend, ids, aliases, [each for each, alias in aliases.items() if backend.token_to_id(alias) != ids[each]]


def _turn_end(tokenizer: Tokenizer) -> list[int]:
    """The id that the template writes behind the assistant's words, found by writing some; [] if it is no control token.

    White space may stand between. What stands last when the assistant's turn is open, too, opens it, unless it ends the
    user's words as well.
    """
    if tokenizer.template is None:
        return []
    asked = {"role": "user", "content": "question"}
    try:
        before = tokenizer.render([asked])
        whole = tokenizer.render([asked, {"role": "assistant", "content": "answer"}], opened=False)
    except InputError:
        return []
    head, answer, tail = whole.rpartition("answer")
    end = tail.lstrip()[:1]
    _, asked_too, between = head.partition("question")
    opens = before.rstrip().endswith(end) and between.lstrip()[:1] != end
    if not answer or not asked_too or opens:
        return []
    return [tokenizer.backend.token_to_id(end)] if end in tokenizer.aliases.values() else []


def join(words: Iterable[str]) -> str:
    """Words to text: one space between them, none where they are glued together."""
    pieces: list[str] = []
    before = "\n"
    for word in words:
        pieces.append(word if glued(before, word) else " " + word)
        before = word
    return "".join(pieces)
