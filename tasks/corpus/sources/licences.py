"""Licences of known data sets, by their identifiers on the Hugging Face Hub, for data set cards."""

from __future__ import annotations

from typing import NamedTuple


class Licence(NamedTuple):
    """A licence: its identifier on the Hub, and its terms in the words of a card."""

    identifier: str
    terms: str


ODC_BY = Licence(
    "odc-by",
    "Open Data Commons Attribution License (ODC-By) 1.0; use is also subject to Common Crawl's "
    "terms of use",
)
APACHE = Licence(
    "apache-2.0",
    "Apache License 2.0; the conversations were written by language models",
)
LICENCES = {  # by Hub repository
    "HuggingFaceFW/fineweb": ODC_BY,
    "HuggingFaceFW/fineweb-edu": ODC_BY,
    "HuggingFaceTB/smol-smoltalk": APACHE,
    "HuggingFaceTB/everyday-conversations-llama3.1-2k": APACHE,
}
UNKNOWN_LICENCE = Licence(
    "unknown",
    "not known to the program that wrote this; look it up at the source before sharing the data",
)
