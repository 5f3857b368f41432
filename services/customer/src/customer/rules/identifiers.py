"""One written form for every identifier a customer is known by, so that equal identifiers are equal strings.

Each `normalize_` function is idempotent and never raises; None means that the text is no such identifier.
"""

import re
import unicodedata
from functools import lru_cache

import phonenumbers
from phonenumbers import NumberParseException, PhoneNumberFormat, PhoneNumberType, ValidationResult

_MAX_SERIAL = 999_999_999
_MAX_PHONE = 100
_MAX_EMAIL = 254

# Zero-width and direction marks come along when text is copied from a screen or a telephone's contact list.
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")
_SPACES_HYPHENS = re.compile(r"[\s\u002d\u2010-\u2015\u2212\u30fc\ufe58]+")
_SPACES_HYPHENS_DOTS = re.compile(r"[\s\u002d\u2010-\u2015\u2212\u30fc\ufe58.\u00b7\u3002]+")

_CUSTOMER_NUMBER = re.compile("C?([0-9]{10})")
_LABEL = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
# The last label is never a number: that would be an IP address.
_DOMAIN = re.compile(rf"(?:{_LABEL}\.)+(?![0-9]+$){_LABEL}")
_ATOM = r"[^\s@.\"(),:;<>\[\]\\]+"
_LOCAL_PART = re.compile(rf"{_ATOM}(?:\.{_ATOM})*")

_PHONE_SPACING = str.maketrans("", "", " -()")
# 179xx is left to the library: it is the prefix of a long-distance carrier, which has to be taken off.
_CHINESE_MOBILE = re.compile(r"(?:\+86)?(1(?:[3-689][0-9]|7[0-8])[0-9]{8})")
_CHINESE_EXTENSION = re.compile("[转轉]|分机|分機|内线|內線")


def _clean(text: str) -> str:
    return unicodedata.normalize("NFKC", _INVISIBLE.sub("", text)).strip()


def _without(separators: re.Pattern[str], text: str) -> str:
    # Taking a separator out can bring a letter and its accent together.
    return unicodedata.normalize("NFKC", separators.sub("", text))


def _casefold(text: str) -> str:
    return unicodedata.normalize("NFKC", text.casefold())


def _international(written: str, region: str) -> phonenumbers.PhoneNumber | None:
    try:
        return phonenumbers.parse(written, region)
    except NumberParseException:
        return None


def _is_new_mobile(number: phonenumbers.PhoneNumber) -> bool:
    reason = phonenumbers.is_possible_number_for_type_with_reason(number, PhoneNumberType.MOBILE)
    # An unknown number may still begin with a trunk prefix; then its E.164 form would be read as another number.
    return reason == ValidationResult.IS_POSSIBLE and _international(_e164(number), "ZZ") == number


def _e164(number: phonenumbers.PhoneNumber) -> str:
    return str(phonenumbers.format_number(number, PhoneNumberFormat.E164))


@lru_cache(maxsize=16384)
def _parse_phone(written: str, region: str) -> str | None:
    number = _international(_CHINESE_EXTENSION.sub(" ext. ", _clean(written)), region)
    if number is None:
        return None
    number.extension = None
    return _e164(number) if phonenumbers.is_valid_number(number) or _is_new_mobile(number) else None


def normalize_phone(written: str, *, region: str) -> str | None:
    """The number in E.164, without its extension; None where it is no phone number of any country.

    `region` (ISO 3166-1 alpha-2) is where a number without a country code belongs. A number counts when the library
    knows it as valid, or when it is as long as that country's mobile numbers: a new mobile prefix is then not refused
    because the library is older. Merely "possible" is not asked for, as it holds for 10086 and for a Beijing number
    without its area code, neither of which reaches anyone from abroad.
    """
    if len(written) > _MAX_PHONE:
        return None
    # Most numbers of an import are Chinese mobiles; for these the answer is the library's at a tenth of the time.
    compact = written.translate(_PHONE_SPACING)
    mobile = _CHINESE_MOBILE.fullmatch(compact)
    if mobile and (region == "CN" or compact[0] == "+"):
        return f"+86{mobile[1]}"
    return _parse_phone(written, region)


def _ascii_domain(domain: str) -> str | None:
    try:
        # The codec knows IDNA 2003; it differs from 2008 in letters such as ß that case folding has replaced before.
        text = domain if domain.isascii() else domain.encode("idna").decode("ascii").lower()
    except UnicodeError:
        return None
    return text if _DOMAIN.fullmatch(text) else None


def normalize_email(written: str) -> str | None:
    """The address in lower case with its domain in ASCII; None where it is no e-mail address.

    Letter case is dropped before the @ too: no provider gives Ann@ and ann@ to different people. Quoted local parts
    and IP addresses as domains are not accepted.
    """
    local, at, written_domain = _casefold(_clean(written[: 2 * _MAX_EMAIL])).partition("@")
    domain = _ascii_domain(written_domain) if at and len(written_domain) <= _MAX_EMAIL else None
    if domain is None or len(local) > 64 or not local.isprintable() or not _LOCAL_PART.fullmatch(local):
        return None
    address = f"{local}@{domain}"
    return address if len(address) <= _MAX_EMAIL else None


def normalize_document(number: str) -> str:
    """The number of an identity document in capitals, without spaces, hyphens and dots."""
    capitals = unicodedata.normalize("NFKC", _clean(number).upper())
    return _without(_SPACES_HYPHENS_DOTS, capitals)


def normalize_service_number(number: str) -> str:
    """The number of a line, card or contract in lower case, without spaces and hyphens."""
    return _without(_SPACES_HYPHENS, _casefold(_clean(number)))


def _check_digit(digits: str) -> int:
    # Luhn: every second digit from the right, where the check digit will stand, is doubled and its digits added.
    doubled = sum(sum(divmod(2 * int(digit), 10)) for digit in digits[::-2])
    return -(doubled + sum(map(int, digits[-2::-2]))) % 10


def customer_number(serial: int) -> str:
    """The customer number of a serial number from 0 to 999 999 999: C, nine digits, a Luhn check digit.

    Raises ValueError outside that range.
    """
    if not 0 <= serial <= _MAX_SERIAL:
        raise ValueError(f"serial {serial} is not between 0 and {_MAX_SERIAL}")
    digits = f"{serial:09d}"
    return f"C{digits}{_check_digit(digits)}"


def normalize_customer_number(written: str) -> str | None:
    """The customer number as it is stored, with or without the C in front; None where the check digit is wrong."""
    match = _CUSTOMER_NUMBER.fullmatch(normalize_document(written))
    if match is None or _check_digit(match[1][:-1]) != int(match[1][-1]):
        return None
    return f"C{match[1]}"
