-- The shop that the phone agent works for: who calls, what they have ordered, and how their calls went.
CREATE TABLE customers (
    phone TEXT PRIMARY KEY,  -- as the provider sends it: +15551234567
    name TEXT NOT NULL
);
CREATE TABLE orders (
    number INTEGER PRIMARY KEY,
    phone TEXT NOT NULL REFERENCES customers,
    thing TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('sent', 'arrived', 'late')),
    arrives_on TEXT  -- a weekday, where it is known
);
CREATE TABLE calls (
    call_sid TEXT PRIMARY KEY,
    phone TEXT NOT NULL,
    began_at TEXT NOT NULL,  -- UTC
    seconds REAL,
    outcome TEXT NOT NULL DEFAULT 'open',  -- then: answered, not found, handed over, hung up
    looked_up TEXT NOT NULL DEFAULT '[]',  -- JSON: questions and what was found
    transcript TEXT NOT NULL DEFAULT '[]'  -- JSON: turns
);

INSERT INTO customers VALUES ('+15550000001', 'Anna'), ('+15550000002', 'Ben'), ('+15550000003', 'Clara');
INSERT INTO orders VALUES
    (41, '+15550000001', 'lamp', 'sent', 'Friday'),
    (42, '+15550000002', 'book', 'arrived', NULL),
    (43, '+15550000003', 'bicycle', 'late', NULL);
