-- One row: how often tenants or keys were changed, so that others see that there is something new.
CREATE TABLE changes (version bigint NOT NULL);
INSERT INTO changes (version) VALUES (1);

CREATE TABLE tenants (
    name text COLLATE "C" PRIMARY KEY,
    -- Everything else about it, as JSON.
    settings text NOT NULL
);

-- Only digests: no key can be made of them.
CREATE TABLE keys (
    digest bytea PRIMARY KEY,
    tenant text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    last_four text NOT NULL,
    created_milliseconds bigint NOT NULL,
    -- From then on it is not taken any more: revoked, or replaced by another.
    ends_milliseconds bigint,
    UNIQUE (tenant, name)
);

-- Money is in billionths of a US dollar, times are milliseconds since 1970.
CREATE TABLE records (
    time_milliseconds bigint NOT NULL,
    id text COLLATE "C" NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    model text COLLATE "C" NOT NULL,
    path text NOT NULL,
    pool text COLLATE "C" NOT NULL,
    backend text COLLATE "C" NOT NULL,
    status integer NOT NULL,
    outcome text NOT NULL,
    streamed boolean NOT NULL,
    prompt_tokens bigint NOT NULL,
    completion_tokens bigint NOT NULL,
    cached_tokens bigint NOT NULL,
    tokens_estimated boolean NOT NULL,
    duration_milliseconds bigint NOT NULL,
    first_byte_milliseconds bigint,
    attempts bigint NOT NULL,
    continuations bigint NOT NULL,
    cost bigint NOT NULL,
    saved bigint NOT NULL,
    energy_joules double precision,
    PRIMARY KEY (time_milliseconds, id)
);

-- What the records of a tenant's day cost: written with them, so that budgets need not read them.
CREATE TABLE spent (
    tenant text COLLATE "C" NOT NULL,
    day bigint NOT NULL,
    cost bigint NOT NULL,
    PRIMARY KEY (tenant, day)
);

-- Gateways that live say so again and again. The reservations of one that has not for half a minute
-- do not count.
CREATE TABLE gateways (
    id bigint PRIMARY KEY,
    seen timestamptz NOT NULL
);

CREATE TABLE reservations (
    gateway bigint NOT NULL,
    number bigint NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    day bigint NOT NULL,
    cost bigint NOT NULL,
    PRIMARY KEY (gateway, number)
);
CREATE INDEX reservations_by_tenant ON reservations (tenant);

-- The last minute of each tenant, by seconds of this server's clock.
CREATE TABLE seconds (
    tenant text COLLATE "C" NOT NULL,
    second bigint NOT NULL,
    requests bigint NOT NULL,
    tokens bigint NOT NULL,
    PRIMARY KEY (tenant, second)
);

-- Takes what a request may need, or nothing. `refused` is empty if it was taken, else the limit that
-- does not allow it; `amount` is then the number of the second it was counted in, else the seconds to
-- wait, or what is left of the budget whose place (from 1) is `place`.
CREATE FUNCTION reserve(
    p_gateway bigint,
    p_number bigint,
    p_tenant text,
    p_day bigint,
    p_tokens bigint,
    p_cost bigint,
    p_concurrency bigint,
    p_requests_max bigint,
    p_tokens_max bigint,
    p_amounts bigint[],
    p_from bigint[],
    p_to bigint[]
) RETURNS TABLE (refused text, amount bigint, place integer) LANGUAGE plpgsql AS $$
DECLARE
    v_second bigint;
    v_count bigint;
    v_requests bigint;
    v_tokens bigint;
    v_free bigint;
    v_left bigint;
BEGIN
    -- One at a time of each tenant; what the statements below see is what all before have done.
    PERFORM pg_advisory_xact_lock(hashtextextended(p_tenant, 1179995719));
    v_second := floor(extract(epoch FROM clock_timestamp()));
    -- Seconds of the future are what a clock that was set back has left.
    DELETE FROM seconds s
        WHERE s.tenant = p_tenant AND (s.second <= v_second - 61 OR s.second > v_second);
    IF p_concurrency IS NOT NULL THEN
        SELECT count(*) INTO v_count FROM reservations r JOIN gateways g ON g.id = r.gateway
            WHERE r.tenant = p_tenant AND g.seen > clock_timestamp() - interval '30 seconds';
        IF v_count >= p_concurrency THEN
            RETURN QUERY SELECT 'concurrency', 0::bigint, 0;
            RETURN;
        END IF;
    END IF;
    IF p_requests_max IS NOT NULL OR p_tokens_max IS NOT NULL THEN
        SELECT coalesce(sum(s.requests), 0), coalesce(sum(s.tokens), 0)
            INTO v_requests, v_tokens FROM seconds s WHERE s.tenant = p_tenant;
        IF v_requests >= p_requests_max THEN
            SELECT min(f.second) INTO v_free FROM (
                SELECT s.second, sum(s.requests) OVER (ORDER BY s.second) AS gone
                FROM seconds s WHERE s.tenant = p_tenant
            ) f WHERE v_requests - f.gone < p_requests_max;
            RETURN QUERY SELECT 'requests', coalesce(v_free + 61 - v_second, 60), 0;
            RETURN;
        END IF;
        IF v_tokens + p_tokens > p_tokens_max THEN
            SELECT min(f.second) INTO v_free FROM (
                SELECT s.second, sum(s.tokens) OVER (ORDER BY s.second) AS gone
                FROM seconds s WHERE s.tenant = p_tenant
            ) f WHERE v_tokens - f.gone + p_tokens <= p_tokens_max;
            RETURN QUERY SELECT 'tokens', coalesce(v_free + 61 - v_second, 60), 0;
            RETURN;
        END IF;
    END IF;
    FOR i IN 1..coalesce(array_length(p_amounts, 1), 0) LOOP
        v_left := p_amounts[i]
            - (SELECT coalesce(sum(s.cost), 0) FROM spent s
                WHERE s.tenant = p_tenant AND s.day >= p_from[i] AND s.day < p_to[i])
            - (SELECT coalesce(sum(r.cost), 0) FROM reservations r JOIN gateways g
                ON g.id = r.gateway
                WHERE r.tenant = p_tenant AND r.day >= p_from[i] AND r.day < p_to[i]
                AND g.seen > clock_timestamp() - interval '30 seconds');
        IF p_cost > v_left OR v_left <= 0 THEN
            RETURN QUERY SELECT 'budget', v_left, i;
            RETURN;
        END IF;
    END LOOP;
    INSERT INTO reservations VALUES (p_gateway, p_number, p_tenant, p_day, p_cost);
    INSERT INTO seconds AS s VALUES (p_tenant, v_second, 1, p_tokens)
        ON CONFLICT ON CONSTRAINT seconds_pkey DO UPDATE
        SET requests = s.requests + 1, tokens = s.tokens + excluded.tokens;
    RETURN QUERY SELECT '', v_second, 0;
END
$$;

-- Ends reservations, and corrects by how much they were counted too high (or too low) in their
-- seconds. Rows are locked in one order, so that two gateways cannot block each other.
CREATE FUNCTION release(
    p_gateway bigint,
    p_numbers bigint[],
    p_tenants text[],
    p_seconds bigint[],
    p_requests bigint[],
    p_tokens bigint[]
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM reservations r WHERE r.gateway = p_gateway AND r.number = ANY (p_numbers);
    PERFORM 1 FROM seconds s
        WHERE (s.tenant, s.second) IN (SELECT * FROM unnest(p_tenants, p_seconds))
        ORDER BY s.tenant, s.second FOR UPDATE;
    UPDATE seconds s
        SET requests = greatest(0, s.requests - d.requests),
            tokens = greatest(0, s.tokens - d.tokens)
        FROM (
            SELECT u.tenant, u.second, sum(u.requests)::bigint AS requests,
                sum(u.tokens)::bigint AS tokens
            FROM unnest(p_tenants, p_seconds, p_requests, p_tokens)
                AS u (tenant, second, requests, tokens)
            GROUP BY u.tenant, u.second
        ) d
        WHERE s.tenant = d.tenant AND s.second = d.second;
END
$$;
