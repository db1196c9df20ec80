"""What `tokenizer.ggml.pre` means: how text is split before byte-level BPE merges run inside each part.

A pre type is a list of regular expressions (Oniguruma syntax, as `tokenizers` reads it) applied one after the other:
each isolates its matches in the parts that the one before left. Where llama.cpp simplifies a published expression (in
`tekken` and `gpt-4o` only ASCII letters have a case), so does this file: training must see the tokens that inference
sees. The two still differ for characters that Unicode 16 added, which llama.cpp (Unicode 15) does not know yet.
"""

from __future__ import annotations

from dataclasses import dataclass

from entrenar_core.errors import TokenizerError


@dataclass(frozen=True)
class PreType:
    """How a byte-level BPE vocabulary cuts text.

    Attributes:
        patterns: expressions applied in order; each isolates its matches.
        ignore_merges: a part that is a token as a whole is taken as it is, whatever the merges say.
        adds_bos: the default of `add_bos_token` where the file does not state it.
    """

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    adds_bos: bool = False


def _char_class(ranges: str) -> str:
    """`"41-5A B5"` (hexadecimal code points) as the inside of a character class."""
    return "".join("-".join(chr(int(end, 16)) for end in part.split("-")) for part in ranges.split())


# Alternatives that many expressions share.
_APOSTROPHE = r"'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])"
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SYMBOLS_AND_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_LAST_SPACE_APART = r"\s+(?!\S)|\s+"
_SPACES = r"\s*[\r\n]+|" + _LAST_SPACE_APART

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|" + _LAST_SPACE_APART
_LLAMA3 = rf"{_APOSTROPHE}|{_LETTERS}|\p{{N}}{{1,3}}|{_SYMBOLS}|{_SPACES}"
_QWEN2 = rf"{_APOSTROPHE}|{_LETTERS}|\p{{N}}|{_SYMBOLS}|{_SPACES}"
_QWEN35 = (
    rf"{_APOSTROPHE}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
)

# A capitalised word and an upper-case word; every letter beyond ASCII counts as both cases.
_UPPER, _LOWER = r"[\p{L}&&[^a-z]]", r"[\p{L}&&[^A-Z]]"
_CASED_WORDS = (rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*")
_TEKKEN = rf"{'|'.join(_CASED_WORDS)}|\p{{N}}|{_SYMBOLS_AND_SLASH}|{_SPACES}"
_GPT4O = (
    rf"{'|'.join(f'{word}(?:{_APOSTROPHE})?' for word in _CASED_WORDS)}|\p{{N}}{{1,3}}|{_SYMBOLS_AND_SLASH}|{_SPACES}"
)
_MARKED_WORD = rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+(?:{_APOSTROPHE})?"

_ASCII_PUNCTUATION = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"
_PUNCTUATION_THEN_WORD = rf"{_ASCII_PUNCTUATION}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+"
_DEEPSEEK3_WORDS = rf"{_PUNCTUATION_THEN_WORD}| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}"
_HAN_AND_KANA = f"[{_char_class('4E00-9FA5 3040-309F 30A0-30FF')}]+"
_HAN_TO_HANGUL = rf"[{_char_class('800-9FA5 AC00-D7FF')}&&[^\s]]+"

# Letters with case that DeepSeek LLM keeps together (published with its tokenizer), as code point ranges.
_DEEPSEEK_LETTERS = _char_class(
    "41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F 386 388-38A 38C "
    "38E-3A1 3A3-3F5 3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF 1D00-1D2B "
    "1D6B-1D77 1D79-1D9A 1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 "
    "1FB6-1FBC 1FBE 1FC2-1FC4 1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 2107 210A-2113 "
    "2115 2119-211D 2124 2126 2128 212A-212D 212F-2134 2139 213C-213F 2145-2149 214E 2183 2184 2C00-2C7B "
    "2C7E-2CE4 2CEB-2CEE 2CF2 2CF3 A640-A66D A680-A69B A722-A76F A771-A787 A78B-A78E AB70-ABBF FB00-FB06 "
    "FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F 104B0-104D3 104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF "
    "1E900-1E943"
)
# U+3000 is left out: it counts as white space before the expression sees it.
_DEEPSEEK_PUNCTUATION = _char_class("21-2F 3A-7E FF01-FF0F FF1A-FF5E 2018-201F 3001-3002")
_AFMOE_SCRIPTS = _char_class(
    "4E00-9FFF 3400-4DBF F900-FAFF 3040-309F 30A0-30FF FF65-FF9F 2F00-2FDF E00-E7F E80-EFF 1780-17FF 1000-109F "
    "AA60-AA7F A9E0-A9FF AC00-D7AF 1100-11FF"
)
_YOUTU_SCRIPTS = "|".join(
    f"[{_char_class(ranges)}]+"
    for ranges in (
        "AC00-D7A3 3131-318E",
        "FF01 2026 201C 201D 2018 2019 2014 FF1A FF1B FF0C 3001-303F FE30-FE4F",
        "3105-312F",
        "4E00-9FA5 3040-309F 30A0-30FF",
    )
)

_SYMBOL_RUN = r"[\p{P}$+<=>^~|`]+"
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"

_DIGIT_THEN_GPT2 = PreType((r"\p{N}", _GPT2))
_PLAIN_GPT2 = PreType((_GPT2,))
_LLAMA3_TYPE = PreType((_LLAMA3,), ignore_merges=True, adds_bos=True)
_DEEPSEEK3_TYPE = PreType((r"\p{N}{1,3}", _HAN_AND_KANA, _DEEPSEEK3_WORDS))

_FAMILIES: tuple[tuple[str, PreType], ...] = (
    ("default", PreType((r"[\p{P}$+<=>^~|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"))),
    ("gpt-2 phi-2 gigachat a.x-4.0 mellum exaone4 mpt olmo jais trillion granite-docling", _PLAIN_GPT2),
    ("starcoder refact command-r smollm codeshell exaone minerva-7b mellum2", _DIGIT_THEN_GPT2),
    ("llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2", _LLAMA3_TYPE),
    ("dbrx smaug-bpe glm4 chatglm-bpe", PreType((_LLAMA3,))),
    ("qwen2 deepseek-r1-qwen kormo stablelm2 hunyuan solar-open megrez grok-2", PreType((_QWEN2,))),
    ("qwen35", PreType((_QWEN35,))),
    ("tekken", PreType((_TEKKEN,), ignore_merges=True, adds_bos=True)),
    ("gpt-4o llama4 kanana2 minimax-m2", PreType((_GPT4O,))),
    ("falcon", PreType((_SYMBOL_RUN, _GPT2, r"[0-9][0-9][0-9]"))),
    ("deepseek-coder", PreType((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _HAN_TO_HANGUL, r"\p{N}"))),
    (
        "deepseek-llm",
        PreType(
            (
                r"[\r\n]",
                rf"\s?[{_DEEPSEEK_LETTERS}]+",
                rf"\s?[{_DEEPSEEK_PUNCTUATION}]+",
                r"\s+\z",
                _HAN_TO_HANGUL,
                r"\p{N}+",
            )
        ),
    ),
    ("deepseek-v3 hunyuan-dense joyai-llm", _DEEPSEEK3_TYPE),
    ("poro-chat bloom gpt3-finnish", PreType((_BLOOM,))),
    ("viking", PreType((_BLOOM, r"\p{N}"))),
    (
        "jais-2",
        PreType(
            (
                rf"{_APOSTROPHE}|{_LETTERS}|\p{{N}}{{1,3}}|{_SYMBOLS}|\s*[\r\n]+|"
                + "".join(rf"\s{{{n}}}(?!\S)|" for n in (512, 256, 128, 64, 32, 16, 8, 4))
                + r"\s{1,2}(?!\S)|\s",
            )
        ),
    ),
    ("superbpe", PreType((r"\p{N}+", r"(?=(?:[0-9]{3})+(?![0-9]))"))),
    (
        "bailingmoe bailingmoe2 llada-moe",
        PreType((rf"{_APOSTROPHE}|{_LETTERS}|\p{{N}}|{_SYMBOLS}|\s*[\r\n]|{_LAST_SPACE_APART}",)),
    ),
    ("seed-coder", PreType((rf"{_APOSTROPHE}|{_LETTERS}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}",))),
    (
        "exaone-moe",
        PreType(
            (
                rf"{_APOSTROPHE}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
                rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]?|\s*[\r\n]|{_LAST_SPACE_APART}",
            )
        ),
    ),
    (
        "chameleon",
        PreType(
            (
                r"<sentinel:[0-9]+>",
                r"(?:IMGIMG)(?:[A-I]{1,4})Z",
                r"[\t\n]|    |  ",
                r"\p{N}",
                r"[\p{P}!-/:-@\[-`{-~]",
                _GPT2,
            ),
            adds_bos=True,
        ),
    ),
    (
        "youtu",
        PreType(
            (_YOUTU_SCRIPTS, rf"{_MARKED_WORD}|\p{{N}}|{_SYMBOLS_AND_SLASH}|{_SPACES}"),
            ignore_merges=True,
        ),
    ),
    (
        "afmoe",
        # Digits in threes from the right; the text before them stays with the first group.
        PreType((r"\P{N}*\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))", f"[{_AFMOE_SCRIPTS}]+", _DEEPSEEK3_WORDS)),
    ),
    (
        "minicpm5",
        PreType(
            (r"\p{N}{1,3}", rf"{_APOSTROPHE}|{_LETTERS}|\p{{N}}+|{_SYMBOLS}|{_SPACES}"),
            ignore_merges=True,
        ),
    ),
    ("ufakzeka", PreType((rf"{_LETTERS}|\p{{N}}|{_SYMBOLS}|{_SPACES}",))),
)

PRE_TYPES: dict[str, PreType] = {name: pre_type for names, pre_type in _FAMILIES for name in names.split()}


def pre_type_named(name: str, source: str) -> PreType:
    """The pre type called `name`; a TokenizerError lists the known ones where it is unknown."""
    if name not in PRE_TYPES:
        raise TokenizerError(
            f"unknown pre-tokenizer type {name!r}",
            where=f"{source}: tokenizer.ggml.pre",
            hint="known: " + ", ".join(sorted(PRE_TYPES)),
        )
    return PRE_TYPES[name]
