"""Customers as they walk in: persons and organisations, households, Chinese and Latin names, dirty duplicates.

Everything follows from the seed, so two runs with one seed meet the same people.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from random import Random

from pypinyin import lazy_pinyin

_FAMILIES = "王李张刘陈杨黄赵吴周徐孙马朱胡郭何高林罗郑梁谢宋唐许韩冯邓曹彭曾肖田董袁潘于蒋蔡余杜叶程苏魏吕丁任沈姚卢"
_COMPOUND = ("欧阳", "司马", "上官", "诸葛", "慕容")
_GIVEN = "伟芳娜敏静丽强磊军洋勇艳杰娟涛明超秀霞平刚桂英华玉兰红建国志文斌鹏辉玲小晓雪梅婷宇浩然子涵欣怡思佳雨晨嘉"
_FIRST = (
    "Anna Ben Chloé Daniel Elena Fatima George Hannah Ibrahim Jürgen Katarzyna Liam María Noah Olivia Pedro Renée "
    "Søren Thomas Uma Victor Wanda Xavier Yusuf Zoë"
).split()
_LAST = (
    "Müller O'Connor García Smith Nguyen Kowalski Ødegård Rossi Dubois Tanaka Andersson Silva Novák Papadopoulos "
    "Ivanov Schmidt Johnson Brown Lee Patel Haddad McDonald d'Angelo Åkesson Peters"
).split()
_CITIES = (
    ("北京市", "110105", "010"), ("上海市", "310104", "021"), ("广州市", "440106", "020"), ("成都市", "510104", "028"),
    ("杭州市", "330106", "0571"), ("西安市", "610113", "029"),
)  # fmt: skip
_STREETS = ("建国路", "人民路", "中山路", "解放路", "长江路", "学府街", "和平大道", "文化路")
_TRADES = ("电信科技", "商贸", "物流", "教育咨询", "餐饮管理", "医疗器械", "软件", "建筑工程")
_INTERESTS = ("travel", "football", "cooking", "photography", "音乐", "摄影", "阅读", "running")
_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_FIRST_BIRTHDAY = date(1945, 1, 1)
_DAYS = 22_000


@dataclass(frozen=True)
class Person:
    """What is true of one customer. `reference` is its service number and, in a crowd, nobody else's; phones are in
    E.164; `number` is the customer number once the platform has given one.

    `same_as` is the reference of the customer that this one really is, written down a second time.
    """

    reference: str
    kind: str
    name: str
    phone: str
    email: str = ""
    document: str = ""
    birthday: str = ""
    gender: str = ""
    city: str = ""
    address: str = ""
    interests: tuple[str, ...] = ()
    same_as: str = ""
    number: str = ""
    written: dict[str, str] = field(default_factory=dict, compare=False)  # as they write it, by field

    def as_written(self, name: str) -> str:
        """A field the way the customer writes it."""
        return self.written.get(name) or str(getattr(self, name))


def crowd(seed: int, count: int) -> Iterator[Person]:
    """So many customers; about one in thirty is somebody who is there already."""
    random = Random(seed)
    known: list[Person] = []
    household: Person | None = None
    for number in range(count):
        if known and random.random() < 0.03:
            yield _again(random, random.choice(known), number)
            continue
        person = _organisation(random, number) if random.random() < 0.08 else _person(random, number, household)
        household = person if person.kind == "PERSON" and random.random() < 0.3 else None
        known = [*known[-500:], person]
        yield person


def _reference(number: int) -> str:
    return f"sn{number:07d}"


def _person(random: Random, number: int, household: Person | None) -> Person:
    chinese = random.random() < 0.75
    city, district, _ = random.choice(_CITIES)
    born = _FIRST_BIRTHDAY + timedelta(days=random.randrange(_DAYS))
    gender = random.choice(("FEMALE", "MALE"))
    phone = _mobile(number)
    name = chinese_name(random, household) if chinese else f"{random.choice(_FIRST)} {random.choice(_LAST)}"
    return Person(
        reference=_reference(number),
        kind="PERSON",
        name=name,
        phone=phone,
        email=f"{''.join(lazy_pinyin(name[:2])) if chinese else name[:2].lower().strip()}{number}@example.com",
        document=identity_number(district, born, number % 500 * 2 + (gender == "MALE")),
        birthday=born.isoformat(),
        gender=gender,
        city=household.city if household and chinese else city,
        address=household.address if household and chinese else _address(random),
        interests=tuple(sorted(random.sample(_INTERESTS, random.randrange(3)))),
        written={"phone": _as_spoken(random, phone)},
    )


def _organisation(random: Random, number: int) -> Person:
    city = random.choice(_CITIES)
    name = f"{city[0].removesuffix('市')}{''.join(random.sample(_GIVEN, 2))}{random.choice(_TRADES)}有限公司"
    phone = f"+86{city[2].removeprefix('0')}{60000000 + number}"
    reference = _reference(number)
    return Person(
        reference,
        "ORGANIZATION",
        name,
        phone,
        email=f"office{number}@example.cn",
        city=city[0],
        address=_address(random),
    )


def _again(random: Random, known: Person, number: int) -> Person:
    """The same customer, met again by somebody who did not look: other spelling, other notation, less said."""
    name = random.choice((known.name.upper(), f" {known.name} ", known.name.replace(" ", "  ")))
    again = replace(known, reference=_reference(number), same_as=known.reference, document="", interests=())
    return replace(
        again, written={"name": name, "phone": _as_spoken(random, known.phone), "email": known.email.upper()}
    )


def chinese_name(random: Random, household: Person | None = None) -> str:
    """A Chinese name of two to four characters; a member of a household carries its family name."""
    family = household.name[0] if household and ord(household.name[0]) > 0x4E00 else random.choice(_FAMILIES)
    if household is None and random.random() < 0.01:
        family = random.choice(_COMPOUND)
    return family + "".join(random.choice(_GIVEN) for _ in range(random.choice((1, 2, 2))))


def identity_number(district: str, born: date, serial: int) -> str:
    """A Chinese identity number with its check digit (GB 11643, ISO 7064 MOD 11-2)."""
    digits = f"{district}{born:%Y%m%d}{serial % 1000:03d}"
    total = sum(int(digit) * weight for digit, weight in zip(digits, _WEIGHTS, strict=True))
    return digits + "10X98765432"[total % 11]


def _mobile(number: int) -> str:
    return f"+86138{number:08d}"


def _address(random: Random) -> str:
    building = f"{random.choice(_STREETS)}{random.randrange(1, 400)}号{random.randrange(1, 30)}栋"
    return f"{building}{random.randrange(101, 2800)}室"


def _as_spoken(random: Random, phone: str) -> str:
    """A number as people write it."""
    national = phone.removeprefix("+86")
    if len(national) != 11 or not national.startswith("1"):
        return phone
    groups = (national[:3], national[3:7], national[7:])
    return random.choice((national, "-".join(groups), " ".join(groups), f"+86 {' '.join(groups)}", f"0086{national}"))
