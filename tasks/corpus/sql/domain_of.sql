-- domain_of(url)  VARCHAR: the host of a url in lower case, without user, port, a leading "www." and
--     the dot of a root; NULL for what has none.
CREATE OR REPLACE TEMP MACRO domain_of(url) AS
    nullif(rtrim(regexp_replace(lower(
        regexp_extract(url, '^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@]*@)?([^/?#@:]+)', 1)
    ), '^www\.', ''), '.'), '');
