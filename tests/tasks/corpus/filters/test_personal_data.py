"""Personal data: each kind, decoys, masking, batches, the planted documents."""

import ipaddress
import json
import random
import re
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks.config.corpus import PersonalDataConfig
from tasks.corpus.filters.personal_data import (
    KINDS,
    PLACEHOLDERS,
    Span,
    edit_personal_data,
    find_personal_data,
    mask,
)
from tasks.corpus.filters.personal_data_rules import (
    FINEWEB_PLACEHOLDERS,
    MAY_CONTAIN,
    SPECIAL_NETWORKS,
    is_public_ip,
    passes_luhn,
)

AWS_KEY = "AKIA" + "QX7RJ2LM4TZPW5NB"
TOKEN = "h7Kq2Xv9LmT4wZ8bRnY5cD3f"
FOUND = {
    "email": ["anna.brown@mail.example.com", "EMMA+news@dept.example.edu", "x_1@a-b.co.uk"],
    "ip_address": ["8.8.8.8", "149.112.112.112", "2606:2800:220:6d:26bf:1447:1097:aa7"],
    "credit_card": ["4111111111111111", "5555-5555-5555-4444", "3782 822463 10005"],
    "ssn": ["536-22-1234"],
    "phone": [
        "312-555-0165", "(212) 555-0103", "(212)555-0103", "212.555.0103", "+1 206 555 0103",
        "1-800-555-0199", "+44 20 7946 0958", "+4930123456789", "312-555-0165 x3352",
        "(212)\u00a0555\u20110103",
    ],
    "secret_key": [
        AWS_KEY, f"ghp_{TOKEN}{TOKEN}", f"xoxb-{TOKEN}", f"sk-proj-{TOKEN}", f"hf_{TOKEN}aBcDeFgH",
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4\n\nMIIB\n-----END RSA PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\n{TOKEN}\n{TOKEN}",
    ],
}  # fmt: skip
NOT_FOUND = [
    "The serial number is 4111 1111 1111 1112 and is not for sale.",  # no check digit
    "Version 2.10.4 of the catalogue lists 1234567 items.",
    "The address 300.256.1.999 appears in the film and cannot exist.",
    "The handbook (ISBN 978-0-306-40615-7) is out of print.",
    "firmware version 4.2.1.16, EC 2.7.4.16, v1.2.3.4, 1.2.3.4.5",
    "127.0.0.1 192.168.0.1 10.1.2.3 203.0.113.7 2001:db8::7 fe80::1 ::1 std::vector 12:30:45",
    "Lived 1914-1918 and 1939-1945, pages 212-555, 2000 2001 2002 2003, 3.14159265358979",
    "000-12-3456 666-12-3456 912-12-3456 123-00-4567 123-45-0000 1123-45-6789",
    "212 555 0103 people, 100-200-3000, 112-555-0165, +1.2345678, +3, 1312-555-01650",
    "@handle, a@b, user@localhost, https://example.com/@user, half@",
    "key: value, password: correcthorsebatterystaple, token=aaaaaaaaaaaaaaaa1111, sk-learn-models",
    "AKIAlowercaselowercas, PRIVATE KEY, secret = ${SECRET_FROM_THE_ENVIRONMENT}",
    *FINEWEB_PLACEHOLDERS,
    "Write to Email@Example.com.Thanks",
]
CASES = [(kind, value) for kind, values in FOUND.items() for value in values]


@pytest.mark.parametrize(("kind", "value"), CASES)
@pytest.mark.parametrize("frame", ["{}", "See {}.", "({}), or", "tel.:{}\nNext", "é <{}> é"])
def test_find_personal_data_each_form_is_found_whole(kind, value, frame):
    start = frame.index("{}")
    assert find_personal_data(frame.format(value)) == [Span(kind, start, start + len(value))]


@pytest.mark.parametrize("text", sorted(NOT_FOUND))
def test_find_personal_data_decoys_are_left(text):
    assert find_personal_data(text) == []


def test_find_personal_data_named_key_is_its_value_alone():
    text = f'API_KEY_PROD = "{TOKEN}" and the password: {TOKEN}'
    spans = find_personal_data(text)
    assert [text[span.start : span.end] for span in spans] == [TOKEN, TOKEN]
    assert mask(text, spans) == 'API_KEY_PROD = "[secret key]" and the password: [secret key]'


def test_find_personal_data_blank_parted_phone_needs_a_cue():
    assert [span.kind for span in find_personal_data("Tel: 212 555 0103")] == ["phone"]
    assert find_personal_data("We counted 212 555 0103 times") == []


def test_find_personal_data_card_beside_other_digits_is_found():
    text = "Use card 12 4111 1111 1111 1111 123 now"
    (span,) = find_personal_data(text)
    assert text[span.start : span.end] == "4111 1111 1111 1111"


def test_find_personal_data_wanted_kinds_only():
    text = "312-555-0165 a@b.example 8.8.8.8"
    assert [span.kind for span in find_personal_data(text, ("phone",))] == ["phone"]
    assert find_personal_data(text, ()) == []


def test_mask_worked_example():
    text = (
        "Ann (ann@mail.example.com, +1-312-555-0165) paid with 4242-4242-4242-4242 from 8.8.4.4\n"
        f"or 2606:2800:220:6d:26bf:1447:1097:aa7; SSN 536-22-1234; id {AWS_KEY}. Not 10.0.0.1."
    )
    assert mask(text, find_personal_data(text)) == (
        "Ann (email@example.com, [phone number]) paid with [card number] from 22.214.171.124\n"
        "or 2001:db8::1; SSN [social security number]; id [secret key]. Not 10.0.0.1."
    )


def pieces() -> st.SearchStrategy[str]:
    values = [value for _, value in CASES]
    glue = [
        "",
        " ",
        "-",
        ".",
        "+",
        "@",
        ":",
        "1",
        "12",
        "a",
        "com",
        "(",
        "\n",
        "'",
        "version ",
        "tel ",
    ]
    others = [*glue * 3, *PLACEHOLDERS.values(), "2001:db8::1", "key=", "user", "\x00", "é"]
    known = st.sampled_from([*values, *others, *NOT_FOUND])
    digits = st.text("0123456789 -.+:@()ax", max_size=12)
    return st.lists(known | digits, max_size=9).map("".join)


@settings(max_examples=300, deadline=None)
@given(pieces())
@example("x Email@Example.com.Thanks8.8.8.8E+news@dept.example.eduanna.brown@mail.example.com")
def test_mask_twice_changes_nothing_more(text):
    spans = find_personal_data(text)
    assert all(a.end <= b.start for a, b in pairwise(spans))
    masked = mask(text, spans)
    assert find_personal_data(masked) == []
    if spans:  # the cheap pattern of the batch may never miss what the rules find
        assert pc.match_substring_regex(pa.array([text]), pattern=MAY_CONTAIN)[0].as_py()


UNITS = ["a", "a.", "a-", "1", "1 ", "12:", "2001:", "+1", "key=a", "1.", "'", "gh", "-----BEGIN "]


@pytest.mark.parametrize("unit", UNITS)
def test_find_personal_data_long_runs_hold_nothing_and_come_to_an_end(unit):
    assert find_personal_data(unit * (400_000 // len(unit)) + "@") == []


def test_passes_luhn_agrees_with_one_right_check_digit():
    chance = random.Random(1)
    for _ in range(200):
        start = "".join(chance.choices("0123456789", k=chance.randint(12, 18)))
        right = [digit for digit in "0123456789" if passes_luhn(start + digit)]
        doubled = [int(d) * (2 - i % 2) for i, d in enumerate(reversed(start))]
        total = sum(int(d) for value in doubled for d in str(value))
        assert right == [str(-total % 10)]


def test_is_public_ip_agrees_with_the_standard_library_outside_multicast():
    chance = random.Random(2)
    starts = [int(network[0]) for network in SPECIAL_NETWORKS if network.version == 4]
    edges = [
        ipaddress.IPv4Address(start + step) for start in starts for step in (-1, 0, 1) if start
    ]
    drawn = [ipaddress.IPv4Address(chance.getrandbits(32)) for _ in range(2_000)]
    drawn += [ipaddress.IPv6Address((1 << 125) | chance.getrandbits(125)) for _ in range(500)]
    for address in [*edges, *drawn]:
        unsettled = (
            address in ipaddress.ip_network("192.0.0.0/24") if address.version == 4 else False
        )
        if not address.is_multicast and not unsettled:
            assert is_public_ip(str(address)) == address.is_global, address


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_edit_personal_data_batch_masks_counts_and_keeps_the_rest(kind):
    texts = pa.array(
        ["plain", None, "Call 312-555-0165 or 312-555-0166", "", "a@b.example", "@"], kind
    )
    masked, num_masked = edit_personal_data(texts, PersonalDataConfig(action="mask"))
    assert masked.type == kind
    assert masked.to_pylist() == [
        "plain", None, "Call [phone number] or [phone number]", "", "email@example.com", "@",
    ]  # fmt: skip
    assert find_personal_data(texts[2].as_py()) == [Span("phone", 5, 17), Span("phone", 21, 33)]
    assert num_masked == {kind: {"phone": 2, "email": 1}.get(kind, 0) for kind in KINDS}
    reported, num_reported = edit_personal_data(texts, PersonalDataConfig(action="report"))
    assert reported is texts
    assert num_reported == num_masked


def test_edit_personal_data_keep_and_slices_and_empty_batches():
    texts = pa.array(["x", "312-555-0165", "y", "8.8.8.8"])
    kept, num_found = edit_personal_data(texts, PersonalDataConfig(action="keep"))
    assert (kept, num_found.total()) == (texts, 0)
    phones = PersonalDataConfig(action="mask", kinds=("phone",))
    assert edit_personal_data(texts[1:], phones)[0].to_pylist() == [
        "[phone number]",
        "y",
        "8.8.8.8",
    ]
    assert edit_personal_data(texts[:0], phones)[0].to_pylist() == []
    assert edit_personal_data(texts[1:], phones)[1] == {"phone": 1}


def test_planted_personal_data_is_all_found_and_no_decoy_touched(shared_data):
    planted = shared_data / "web_planted"
    truth = pq.read_table(planted / "truth.parquet", filters=[("kind", "=", "pii")]).to_pylist()
    details = {row["id"]: json.loads(row["detail"]) for row in truth}
    kinds = {"email": "email", "phone": "phone", "credit_card": "credit_card", "ipv4": "ip_address"}
    num_found = num_documents = 0
    for path in sorted(planted.glob("0*.parquet")):
        for row in pq.read_table(path, columns=["id", "text"]).to_pylist():
            if row["id"] not in details:
                continue
            detail, text = details[row["id"]], row["text"]
            wanted = [
                Span(kinds[span["type"]], span["start"], span["end"])
                for span in detail["spans"]
                if span.get("range", "public") == "public"
            ]
            found = find_personal_data(text)
            assert found == wanted, row["id"]
            masked = mask(text, found)
            assert all(re.search(re.escape(decoy), masked) for decoy in detail["decoys"])
            num_found, num_documents = num_found + len(found), num_documents + 1
    assert (num_found, num_documents) == (200, 100)
