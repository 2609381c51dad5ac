"""Rules that find personal data, one function for each kind.

A rule is a pattern that runs in linear time, and a check of its matches. ``MAY_CONTAIN`` is one
cheap pattern, for RE2, that matches every text in which some rule finds something.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator

from tasks.config.corpus import PersonalDataKind

Found = Iterator[tuple[int, int]]

FINEWEB_PLACEHOLDERS = frozenset(  # datatrove pipeline/formatters/pii.py, its default replacements
    {
        "email@example.com", "firstname.lastname@example.org",
        "22.214.171.124", "126.96.36.199", "188.8.131.52",
        "184.108.40.206", "220.127.116.11", "18.104.22.168",
    }
)  # fmt: skip
PLACEHOLDER_ADDRESSES = FINEWEB_PLACEHOLDERS | {"2001:db8::1"}
_PLACEHOLDER_EMAILS = sorted(item for item in FINEWEB_PLACEHOLDERS if "@" in item)
PLACEHOLDER_EMAILS_RUN_ON = tuple(f"{item}." for item in _PLACEHOLDER_EMAILS)
# Of ``a@b.com@c.com`` the last two parts look like an address, masked or not.
PLACEHOLDER_BEFORE_AT = re.compile(
    f"(?:{'|'.join(map(re.escape, _PLACEHOLDER_EMAILS))})(?=@)", re.IGNORECASE
)
# Ranges that are nobody's address on the internet. Source: the IANA special-purpose address
# registries; not ``ipaddress.is_global``, which differs between patch releases of Python.
SPECIAL_NETWORKS = tuple(
    map(
        ipaddress.ip_network,
        (
            "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
            "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15",
            "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3",
            "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
        ),
    )
)  # fmt: skip
LEAST_KEY_BITS = 3.5  # of entropy per character: words stay below, 20 random characters above

_SPACE = r" \u00a0"
_DASH = r"\-\u2010-\u2013"
_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+'-])[._%+'-]*+([A-Za-z0-9][A-Za-z0-9._%+'-]{0,63}+"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24})(?![A-Za-z0-9])"
)
_IPV4 = re.compile(r"(?<![\w.+-])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![\w]|[.-][0-9])")
_IPV6 = re.compile(r"(?<![\w.])(?<![\w:]:)[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,34}(?![\w:])")
_VERSION = re.compile(
    r"\b(?:version|release|section|chapter|firmware|build|EC) {0,2}\Z", re.IGNORECASE
)
_SSN = re.compile(
    r"(?<!\w)(?<![0-9][-.])(?!000|666|9)[0-9]{3}-(?!00)[0-9]{2}-(?!0000)[0-9]{4}(?!\w|[-.][0-9])"
)
_CARD = re.compile(
    r"(?<![\w+])(?<![0-9][-.])(?:"
    r"([0-9]{4}([ -])[0-9]{4}\2[0-9]{4}\2[0-9]{4})(?:\2[0-9]{3})?"
    r"|[0-9]{4}([ -])[0-9]{6}\3[0-9]{4,5}"
    r"|[0-9]{13,19}"
    r")(?!\w|[-.][0-9])"
)
# Issuers by first digits: Visa, Mastercard, American Express, Diners Club, Discover and UnionPay,
# JCB. Source: ISO/IEC 7812 ranges as the schemes publish them.
_ISSUER = re.compile(r"4|5[1-5]|2(?:2[2-9]|[3-6]|7[01]|720)|3(?:[47]|0[0-5]|[689]|5[2-8])|6[0245]")
_US_PHONE = re.compile(
    rf"(?<!\w)(?<![0-9][.{_DASH}])(?:(?P<country>(?:\+|(?<!\+))1[.{_SPACE}{_DASH}]?)|(?<!\+))"
    rf"(?:(?P<area>\([2-9][0-9]{{2}}\)[.{_SPACE}{_DASH}]{{0,2}})[2-9][0-9]{{2}}[.{_SPACE}{_DASH}]"
    rf"|[2-9][0-9]{{2}}(?P<mark>[.{_SPACE}{_DASH}])[2-9][0-9]{{2}}(?P=mark))"
    rf"[0-9]{{4}}(?:[ ,]{{0,2}}(?:x|ext\.?|extension) ?[0-9]{{1,5}})?(?!\w|[.{_DASH}][0-9])"
)
_PHONE_CUE = re.compile(
    r"\b(?:tel|telephone|phone|mobile|cell|fax|call)(?: (?:number|no|us|at|me|on))?[.:]? {0,2}\Z",
    re.IGNORECASE,
)
_WORLD_PHONE = re.compile(
    rf"(?<![\w+])\+[1-9](?:[./(){_SPACE}{_DASH}]{{0,2}}[0-9]){{7,14}}(?!\w|[.{_DASH}]?[0-9])"
)
_DECIMAL = re.compile(r"\+[0-9]+\.[0-9]+")
_KEY = re.compile(
    r"(?<![A-Za-z0-9])(?:(?:AKIA|ASIA)[A-Z2-7]{16}|gh[pousr]_[A-Za-z0-9]{36,255}"
    r"|github_pat_[A-Za-z0-9_]{50,255}|xox[abeprs]-[A-Za-z0-9-]{10,255}|AIza[A-Za-z0-9_-]{35}"
    r"|[rs]k_live_[A-Za-z0-9]{24,255}|hf_[A-Za-z0-9]{30,64}|sk-[A-Za-z0-9_-]{20,255})(?![A-Za-z0-9])"
)
_PRIVATE_KEY = re.compile(
    r"-----BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
    r"(?:(?:[^-]|-(?!----)){0,20000}+-----END (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
    r"|(?:\s{1,4}[A-Za-z0-9+/=]{20,200})*+)"
)
_NAMED_KEY = re.compile(
    r"(?:key|secret|token|passwd|password)[A-Za-z0-9_-]{0,20}+[\"']?[ \t]{0,2}[:=][ \t]{0,2}[\"']?"
    r"([A-Za-z0-9+/_=-]{16,255}+)(?![A-Za-z0-9@.])",
    re.IGNORECASE | re.ASCII,
)

MAY_CONTAIN = "|".join(
    (
        "@",
        r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]",
        r"[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2}",
        r"[0-9]{3}-[0-9]{2}-[0-9]{4}",
        r"[0-9]{4}[ -]?[0-9]{4}[ -]?[0-9]{4}[ -]?[0-9]|[0-9]{4}[ -][0-9]{6}[ -][0-9]{4}",
        r"[0-9]{3}\)?[. \x{a0}\-\x{2010}-\x{2013}]{0,2}[0-9]{3}"
        r"[. \x{a0}\-\x{2010}-\x{2013}][0-9]{4}",
        r"\+[1-9](?:[./() \x{a0}\-\x{2010}-\x{2013}]{0,2}[0-9]){7}",
        "AKIA|ASIA|PRIVATE KEY|gh[pousr]_|github_pat_|xox[abeprs]-|AIza|[rs]k_live_|hf_",
        "sk-[A-Za-z0-9_-]{20}",
        r"(?i:key|secret|token|passwd|password)[A-Za-z0-9_-]{0,20}[\"']?[ \t]{0,2}[:=]"
        r"[ \t]{0,2}[\"']?[A-Za-z0-9+/_=-]{16}",
    )
)


def is_placeholder(address: str) -> bool:
    """Say whether an address is the placeholder of a removed one.

    A domain may run on into the next sentence where its blank is missing: ``….com.Thanks``.
    """
    found = address.lower()
    return found in PLACEHOLDER_ADDRESSES or found.startswith(PLACEHOLDER_EMAILS_RUN_ON)


def find_emails(text: str) -> Found:
    """Yield e-mail addresses, placeholders among them."""
    if "@" in text:
        yield from (match.span(1) for match in _EMAIL.finditer(text))


def find_ip_literals(text: str) -> Found:
    """Yield well-formed IP addresses of any range."""
    patterns = (_IPV4, _IPV6) if ":" in text else (_IPV4,)
    spans = [match.span() for pattern in patterns for match in pattern.finditer(text)]
    yield from sorted(span for span in spans if _parsed(text[slice(*span)]))


def _find_public_ips(text: str) -> Found:
    for start, end in find_ip_literals(text):
        if is_public_ip(text[start:end]) and not _VERSION.search(text[max(0, start - 20) : start]):
            yield start, end


def is_public_ip(address: str) -> bool:
    """Say whether a well-formed address can be somebody's on the internet."""
    parsed = ipaddress.ip_address(address)
    return not any(parsed in network for network in SPECIAL_NETWORKS)


def _parsed(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True


def _find_personal_emails(text: str) -> Found:
    for start, end in find_emails(text):
        if not is_placeholder(text[start:end]):
            yield start, end


def _find_ssns(text: str) -> Found:
    yield from (match.span() for match in _SSN.finditer(text))


def _find_cards(text: str) -> Found:
    for match in _CARD.finditer(text):
        ends = [match.end()] if match.end(1) < 0 else [match.end(), match.end(1)]
        for end in ends:
            if _is_card(text[match.start() : end]):
                yield match.start(), end
                break


def _is_card(written: str) -> bool:
    digits = written.replace(" ", "").replace("-", "")
    return bool(_ISSUER.match(digits)) and passes_luhn(digits)


def passes_luhn(digits: str) -> bool:
    """Say whether the last digit is the right check digit of those before it (ISO/IEC 7812-1)."""
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


def _find_phones(text: str) -> Found:
    spans = [match.span() for match in _US_PHONE.finditer(text) if _is_us_phone(match)]
    spans += [
        match.span()
        for match in _WORLD_PHONE.finditer(text)
        if not _DECIMAL.fullmatch(match.group())
    ]
    yield from _first_and_longest(spans)


def _is_us_phone(match: re.Match[str]) -> bool:
    """Say whether digits set apart by blanks alone have something that makes them a number."""
    if match["country"] or match["area"] or match["mark"] not in (" ", "\u00a0"):
        return True
    return bool(_PHONE_CUE.search(match.string[max(0, match.start() - 30) : match.start()]))


def _find_keys(text: str) -> Found:
    spans = [match.span() for match in _PRIVATE_KEY.finditer(text)]
    spans += [match.span() for match in _KEY.finditer(text) if _is_random(match.group())]
    spans += [match.span(1) for match in _NAMED_KEY.finditer(text) if _is_random(match.group(1))]
    yield from _first_and_longest(spans)


def _is_random(key: str) -> bool:
    """Say whether a key looks drawn at random: letters and digits, high entropy."""
    bits = -sum(n / len(key) * math.log2(n / len(key)) for n in Counter(key).values())
    has_both = any(map(str.isdigit, key)) and any(map(str.isalpha, key))
    return has_both and bits >= LEAST_KEY_BITS


def _first_and_longest(spans: list[tuple[int, int]]) -> Found:
    """Yield spans in order, leaving out those that overlap an earlier one."""
    end = 0
    for span in sorted(spans, key=lambda span: (span[0], -span[1])):
        if span[0] >= end:
            yield span
            end = span[1]


ADDRESSES: tuple[Callable[[str], Found], ...] = (find_emails, find_ip_literals)
# Applied in this order; findings of one rule are blanked before the next.
RULES: dict[PersonalDataKind, Callable[[str], Found]] = {
    "secret_key": _find_keys,
    "email": _find_personal_emails,
    "ip_address": _find_public_ips,
    "credit_card": _find_cards,
    "ssn": _find_ssns,
    "phone": _find_phones,
}
