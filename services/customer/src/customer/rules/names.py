"""Names as people say and type them: folded to plain letters, split into words, and read aloud in pinyin.

Equal names are equal strings however they are written; a Chinese name is also found by its sound.
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice, product

from pypinyin import Style, lazy_pinyin
from pypinyin.contrib.tone_convert import to_normal
from pypinyin.pinyin_dict import pinyin_dict

_HAN = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(f"[{_HAN}]+|[^{_HAN} ]+")
_HAN_START = re.compile(f"[{_HAN}]")
_HAN_GAP = re.compile(f"(?<=[{_HAN}]) (?=[{_HAN}])")
_O_GAP = re.compile("(?<![^ ])o (?=[a-z])")

# Written inside a word, so they leave no gap: straight, curved, modifier letters, primes, grave and acute.
_APOSTROPHES = "'`\u00b4\u02b9\u02bb\u02bc\u02bd\u02be\u02bf\u02c8\u2018\u2019\u201b\u2032\ua78c"
_APOSTROPHE_GAP = str.maketrans(dict.fromkeys(_APOSTROPHES + "\uff07\uff40", " "))
# Latin letters that Unicode does not take apart into a letter and an accent.
_STROKED = {"ø": "o", "đ": "d", "ł": "l", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ħ": "h", "ı": "i", "ŧ": "t"}
_GAP_CATEGORIES = {"Cc", "Cs", "Sc", "Sk", "Sm"}

# As surnames these are read otherwise than in everyday words, which is what the dictionary lists first.
_SURNAMES = dict(
    pair.split(":")
    for pair in (
        "单:shan 解:xie 仇:qiu 曾:zeng 查:zha 区:ou 朴:piao 盖:ge 任:ren 华:hua 缪:miao 翟:zhai 种:chong 员:yun "
        "召:shao 冼:xian 乐:yue 秘:bi 覃:qin 黑:he 繁:po 折:she 洗:xian 祭:zhai 能:nai 佴:nai 郇:xun 隗:wei 都:du "
        "阚:kan 卜:bu 薄:bo 乜:nie 粘:nian 句:gou 逢:pang 重:chong 藏:zang 莘:xin"
    ).split()
)
# Surnames of two characters: five are read in their own way, all decide where the given name begins.
_COMPOUND_SURNAMES = {
    "尉迟": ("yu", "chi"),
    "万俟": ("mo", "qi"),
    "长孙": ("zhang", "sun"),
    "澹台": ("tan", "tai"),
    "单于": ("chan", "yu"),
} | dict.fromkeys(
    "欧阳 司马 上官 诸葛 皇甫 司徒 夏侯 令狐 慕容 公孙 轩辕 宇文 东方 独孤 南宫 端木 百里 呼延 赫连 鲜于 淳于 濮阳 "
    "钟离 申屠 太史 仲孙 宗政 闾丘 亓官 拓跋 完颜 纳兰 东郭 西门 耶律 第五".split()
)
# Characters that are common in given names and have a second reading there.
_GIVEN_NAMES = dict(
    pair.split(":")
    for pair in "长:chang 乐:yue 朝:zhao 茜:xi 行:hang 盛:cheng 晟:sheng 重:chong 隽:jun 率:shuai 柏:bo 莞:wan".split()
)
_MAX_READINGS = 6
LONGEST_PERSONAL = 4


def _fold_character(character: str) -> str:
    category = unicodedata.category(character)
    if character in _APOSTROPHES or category == "Cf" or "\u0300" <= character <= "\u036f":
        return ""
    if "\ufe00" <= character <= "\ufe0f" or character >= "\U000e0100":
        return ""
    if category[0] in "PZ" or category in _GAP_CATEGORIES:
        return " "
    base = unicodedata.normalize("NFD", character)[0]
    plain = _STROKED.get(base, base)
    return plain if plain.isascii() else character


class _Folding(dict[int, str]):
    """What each code point is folded to, worked out when it is first met."""

    def __missing__(self, point: int) -> str:
        folded = self[point] = _fold_character(chr(point))
        return folded


_folding = _Folding()


def _plain(text: str) -> str:
    # The acute accent that stands alone would be taken apart into a space and an accent.
    cased = unicodedata.normalize("NFKC", text.replace("\u00b4", "'")).casefold()
    letters = unicodedata.normalize("NFKC", cased).translate(_folding)
    return " ".join(unicodedata.normalize("NFKC", letters).split())


def fold(text: str) -> str:
    """The text in lower case without accents and punctuation, words separated by one space; "" if nothing is left.

    An apostrophe leaves no gap, and neither does the Irish O: O'Connor, OConnor and o connor are one. Chinese is
    written without gaps; it and other scripts keep their letters.
    """
    return _HAN_GAP.sub("", _O_GAP.sub("o", _plain(text)))


def words(text: str) -> list[str]:
    """The folded words in order; a run of Chinese characters is one word, also next to Latin letters."""
    return _WORD.findall(_plain(text))


def spellings(text: str) -> list[str]:
    """All words under which the text is found: as written, and with o and what follows an apostrophe joined or apart.

    No duplicates, in the order of the text.
    """
    found = words(text)
    if not _O_GAP.search(" ".join(found)) and text.isalnum():
        return list(dict.fromkeys(found))
    return list(dict.fromkeys([*found, *_WORD.findall(fold(text)), *words(text.translate(_APOSTROPHE_GAP))]))


def is_chinese(word: str) -> bool:
    """Whether a word (see `words`) is written in Chinese characters."""
    return _HAN_START.match(word) is not None


class _Syllables(dict[str, str]):
    """The everyday reading of each character, worked out when it is first met; "" where it has none."""

    def __missing__(self, character: str) -> str:
        first = pinyin_dict.get(ord(character), "").partition(",")[0]
        syllable = self[character] = _plain(to_normal(first))
        return syllable


_syllables = _Syllables()


def _everyday(text: str) -> tuple[str, ...]:
    # Whether 行 is xing or hang is known from the words of a long name (an organisation's); looking for words is slow.
    if len(text) > 3:
        return tuple(map(_plain, lazy_pinyin(text, style=Style.NORMAL, errors="ignore")))
    return tuple(_syllables[character] for character in text)


def family_length(text: str) -> int:
    """How many characters of a Chinese name are its surname: two where these are a known surname, else one."""
    return 2 if len(text) > 2 and text[:2] in _COMPOUND_SURNAMES else 1


def _families(text: str, everyday: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    compound = _COMPOUND_SURNAMES.get(text[:2])
    if compound:
        yield compound[: family_length(text)]
    elif text[0] in _SURNAMES and len(text) <= LONGEST_PERSONAL:
        yield (_SURNAMES[text[0]],)
    yield everyday[: family_length(text)]


def _umlauts(syllables: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    yield syllables
    # ü has no key: it is typed v or u, and printed yu in passports.
    if any("v" in syllable for syllable in syllables):
        yield tuple(syllable.replace("v", "u") for syllable in syllables)
        yield tuple(syllable.replace("v", "yu") for syllable in syllables)


@lru_cache(maxsize=65536)
def readings(text: str) -> tuple[tuple[str, ...], ...]:
    """The ways a run of Chinese characters is read as a name, as plain syllables, the likeliest first; at most six.

    Surnames and some characters of given names have a reading of their own; ü is given as v, u and yu.
    """
    everyday = _everyday(text)
    if len(everyday) != len(text) or len(text) > LONGEST_PERSONAL:
        found = dict.fromkeys(_umlauts(_voiced(everyday)))
    else:
        spoken = (one for family in _families(text, everyday) for one in _given(text, everyday, family))
        found = dict.fromkeys(spelled for one in spoken for spelled in _umlauts(_voiced(one)))
    return tuple(one for one in found if one)[:_MAX_READINGS]


def _given(text: str, everyday: tuple[str, ...], family: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    start = len(family)
    options = [
        tuple(dict.fromkeys((syllable, _GIVEN_NAMES.get(character, syllable))))
        for character, syllable in zip(text[start:], everyday[start:], strict=True)
    ]
    return ((*family, *given) for given in islice(product(*options), _MAX_READINGS))


def _voiced(syllables: tuple[str, ...]) -> tuple[str, ...]:
    """The syllables of the characters that have a reading."""
    return tuple(filter(None, syllables))
