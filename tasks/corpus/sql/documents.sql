-- Properties of one document, for the filter and for the selection of validation rows.
--
-- White space is what Python's str.split() splits at, ASCII and not; a word is what it returns.
--
-- is_blank(text)              BOOLEAN: no word at all.
-- word_count(text)            BIGINT: number of words, equal to len(text.split()).
-- has_words(text, least)      BOOLEAN: word_count(text) >= least, mostly without counting them all:
--     pieces of the text's start, cut at blanks, that begin with printable ASCII each begin a word
--     of their own. 10 characters per wanted word decide nearly every English document.
-- exceeds_words(text, most)   BOOLEAN: word_count(text) > most; n words take at least 2 n - 1
--     characters.
-- has_language(language, wanted)              BOOLEAN: an unknown label (NULL) passes.
-- has_language_score(language, score, least)  BOOLEAN: so does a score that is NULL or without label.

SET VARIABLE word_pattern =
    '[^\x09-\x0D\x1C-\x20\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}'
    || '\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}]+';

CREATE OR REPLACE TEMP MACRO is_blank(text) AS
    NOT regexp_matches(text, getvariable('word_pattern'));

CREATE OR REPLACE TEMP MACRO word_count(text) AS
    len(regexp_extract_all(text, getvariable('word_pattern')));

CREATE OR REPLACE TEMP MACRO has_words(text, least) AS
    CASE
        WHEN len(list_filter(
            string_split(left(text, 10 * least), ' '), lambda piece: piece BETWEEN '!' AND '~'
        )) >= least THEN TRUE
        ELSE word_count(text) >= least
    END;

CREATE OR REPLACE TEMP MACRO exceeds_words(text, most) AS
    CASE
        WHEN length(text) < 2 * most + 1 THEN FALSE
        ELSE word_count(text) > most
    END;

CREATE OR REPLACE TEMP MACRO has_language(language, wanted) AS
    language IS NULL OR language = wanted;

CREATE OR REPLACE TEMP MACRO has_language_score(language, score, least) AS
    language IS NULL OR score IS NULL OR score >= least;
