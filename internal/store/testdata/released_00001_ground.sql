-- +goose Up
CREATE TABLE device (
  id          INTEGER PRIMARY KEY AUTOINCREMENT, -- never used twice
  name        TEXT    NOT NULL UNIQUE,
  type        TEXT    NOT NULL,
  secret_kind INTEGER NOT NULL,                  -- auth.SecretKind
  secret      BLOB    NOT NULL,                  -- 32 bytes
  disabled    INTEGER NOT NULL DEFAULT 0,
  created_ms  INTEGER NOT NULL
);
CREATE INDEX device_type ON device (type);

-- A device's latest telemetry and presence as of a log position; what came after is
-- replayed from the log at start (registry).
CREATE TABLE device_state (
  device       INTEGER PRIMARY KEY,
  position     INTEGER NOT NULL, -- of the latest telemetry, 0 none
  received_us  INTEGER NOT NULL,
  time_us      INTEGER NOT NULL,
  boot         INTEGER NOT NULL, -- device protocol 2: power-up mark (hash) and highest settled seq
  seq          INTEGER NOT NULL,
  body         BLOB,
  online       INTEGER NOT NULL,
  since_us     INTEGER NOT NULL,
  address      TEXT    NOT NULL
);

-- The intake log: rows of entries, one or more a commit (history).
CREATE TABLE intake (
  id               INTEGER PRIMARY KEY, -- position of the first entry
  n                INTEGER NOT NULL,    -- entries; the next row's id is id+n
  received_us      INTEGER NOT NULL,    -- of the first entry; grows with id
  received_last_us INTEGER NOT NULL,    -- of the last entry
  time_min_us      INTEGER NOT NULL,    -- smallest history time of its telemetry
  devices          BLOB    NOT NULL,    -- which devices, and where each one's previous telemetry is
  body             BLOB    NOT NULL     -- the entries, compressed
);

CREATE TABLE command (
  id              TEXT    PRIMARY KEY,
  device          INTEGER NOT NULL,
  active          INTEGER NOT NULL, -- 1 until nothing can happen to it any more
  idempotency_key TEXT,
  created_ms      INTEGER NOT NULL,
  body            BLOB    NOT NULL  -- signalbox.Command as JSON
) WITHOUT ROWID;
CREATE INDEX command_device ON command (device, id);
CREATE INDEX command_active ON command (id) WHERE active = 1;
CREATE UNIQUE INDEX command_key ON command (device, idempotency_key) WHERE idempotency_key IS NOT NULL;

CREATE TABLE person (
  id            INTEGER PRIMARY KEY AUTOINCREMENT,
  name          TEXT    NOT NULL UNIQUE,
  password_hash TEXT    NOT NULL, -- bcrypt
  created_ms    INTEGER NOT NULL
);

CREATE TABLE token (
  id         INTEGER PRIMARY KEY AUTOINCREMENT,
  name       TEXT    NOT NULL UNIQUE,
  hash       BLOB    NOT NULL UNIQUE, -- SHA-256 of the secret
  scope      TEXT    NOT NULL,
  created_by TEXT    NOT NULL,
  created_ms INTEGER NOT NULL,
  expires_ms INTEGER NOT NULL,        -- 0: never
  used_ms    INTEGER NOT NULL         -- 0: never; kept to the minute
);

-- Browser sessions of people.
CREATE TABLE login (
  hash       BLOB    PRIMARY KEY, -- SHA-256 of the cookie's secret
  person     INTEGER NOT NULL,
  created_ms INTEGER NOT NULL,
  expires_ms INTEGER NOT NULL
);
CREATE INDEX login_person ON login (person);

CREATE TABLE meta (
  name  TEXT PRIMARY KEY,
  value TEXT NOT NULL
);

-- +goose Down
DROP TABLE meta;
DROP TABLE login;
DROP TABLE token;
DROP TABLE person;
DROP TABLE command;
DROP TABLE intake;
DROP TABLE device_state;
DROP TABLE device;
