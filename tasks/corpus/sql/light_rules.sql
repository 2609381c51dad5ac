-- The light rules of the filter: text is present, in the wanted language, and of a fitting length.
--
-- light_reason(...)     VARCHAR: why a document is dropped, the first rule that applies; NULL = kept.
-- light_detail(...)     VARCHAR: the offending value of that reason.

CREATE OR REPLACE TEMP MACRO light_reason(
    text, language, language_score, wanted_language, least_score, least_words, most_words
) AS
    CASE
        WHEN text IS NULL THEN 'null_text'
        WHEN is_blank(text) THEN 'empty_text'
        WHEN NOT has_language(language, wanted_language) THEN 'language'
        WHEN NOT has_language_score(language, language_score, least_score) THEN 'language_score'
        WHEN NOT has_words(text, least_words) THEN 'too_short'
        WHEN exceeds_words(text, most_words) THEN 'too_long'
    END;

CREATE OR REPLACE TEMP MACRO light_detail(
    reason, text, language, language_score, least_score, least_words, most_words
) AS
    CASE reason
        WHEN 'null_text' THEN 'NULL'
        WHEN 'empty_text' THEN format('{} characters of white space', length(text))
        WHEN 'language' THEN language
        WHEN 'language_score' THEN language_score::VARCHAR || ' < ' || least_score::VARCHAR
        WHEN 'too_short' THEN format('{} words < {}', word_count(text), least_words)
        WHEN 'too_long' THEN format('{} words > {}', word_count(text), most_words)
    END;
