-- Keys by which two documents are the same text. This is the only definition of them.
--
-- exact_key(text)       UUID: md5 of the text.
-- normalised(text)      VARCHAR: the text in lower case (DuckDB's lower: one character for one),
--     without
--     * ASCII control characters, white space and punctuation, but with the underscore kept
--       (so of ASCII stay a-z, 0-9 and _);
--     * U+0080 to U+00A1 (controls, no-break space, inverted !), U+00AB U+00AD U+00B7 U+00BB U+00BF
--       (quotation marks, soft hyphen, middle dot, inverted ?);
--     * U+1680, U+2000 to U+2027, U+2028 to U+203A, U+205F, U+2060 (blanks, zero-width characters,
--       directions, dashes, quotation marks, bullets, ellipsis, primes);
--     * U+3000 to U+3002 (ideographic blank, comma and full stop), U+FEFF (byte order mark).
--     Everything else stays: letters and digits of every script, accents, currency and other signs.
--     translate() over this list takes about 60 MB/s; the same by regular expression takes 35.
-- normalised_key(text)  UUID: md5 of normalised(text). A text of which nothing remains keeps its
--     exact key: "..." and "?!" are not copies of one another. No normalised form can equal such a
--     text.
--
-- Raise NORMALISATION_VERSION in duckdb_connection.py when a key would change.

SET VARIABLE not_word_characters = (
    SELECT string_agg(chr(code), '' ORDER BY code)
    FROM (
        SELECT unnest(
            range(1, 48) || range(58, 65) || range(91, 95) || [96] || range(123, 128)
            || range(128, 162) || [171, 173, 183, 187, 191]
            || [5760] || range(8192, 8251) || [8287, 8288]
            || range(12288, 12291) || [65279]
        )::INTEGER AS code
    )
);

CREATE OR REPLACE TEMP MACRO exact_key(text) AS
    md5_number(text)::UUID;  -- UUID, because COPY would store the 128-bit integer as a lossy DOUBLE

CREATE OR REPLACE TEMP MACRO normalised(text) AS
    translate(lower(text), getvariable('not_word_characters'), '');

CREATE OR REPLACE TEMP MACRO normalised_key(text) AS
    md5_number(coalesce(nullif(normalised(text), ''), text))::UUID;
