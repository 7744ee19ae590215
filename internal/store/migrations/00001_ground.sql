-- +goose Up
CREATE TABLE IF NOT EXISTS device (
  id          {{.ID}}, -- never used twice
  name        {{.Name}} NOT NULL UNIQUE,
  type        {{.Name}} NOT NULL,
  secret_kind {{.Int}} NOT NULL,                  -- auth.SecretKind
  secret      {{.Hash}} NOT NULL,                 -- 32 bytes
  disabled    {{.Int}} NOT NULL DEFAULT 0,
  created_ms  {{.Int}} NOT NULL
) {{.Table}};
CREATE INDEX IF NOT EXISTS device_type ON device (type);

-- A device's latest telemetry and presence as of a log position; what came after is
-- replayed from the log at start (registry).
CREATE TABLE IF NOT EXISTS device_state (
  device       {{.Int}} PRIMARY KEY,
  position     {{.Int}} NOT NULL, -- of the latest telemetry, 0 none
  received_us  {{.Int}} NOT NULL,
  time_us      {{.Int}} NOT NULL,
  boot         {{.Int}} NOT NULL, -- device protocol 2: power-up mark (hash) and highest settled seq
  seq          {{.Int}} NOT NULL,
  body         {{.Blob}},
  online       {{.Int}} NOT NULL,
  since_us     {{.Int}} NOT NULL,
  address      {{.Name}} NOT NULL
) {{.Table}};

-- The intake log: rows of entries, one or more a commit (history).
CREATE TABLE IF NOT EXISTS intake (
  id               {{.Int}} PRIMARY KEY, -- position of the first entry
  n                {{.Int}} NOT NULL,    -- entries; the next row's id is id+n
  received_us      {{.Int}} NOT NULL,    -- of the first entry; grows with id
  received_last_us {{.Int}} NOT NULL,    -- of the last entry
  time_min_us      {{.Int}} NOT NULL,    -- smallest history time of its telemetry
  devices          {{.Blob}} NOT NULL,   -- which devices, and where each one's previous telemetry is
  body             {{.Blob}} NOT NULL    -- the entries, compressed
) {{.Table}};
{{- if .External}}
ALTER TABLE intake ALTER COLUMN devices SET STORAGE EXTERNAL;
ALTER TABLE intake ALTER COLUMN body SET STORAGE EXTERNAL;
{{- end}}

CREATE TABLE IF NOT EXISTS command (
  id              {{.Name}} PRIMARY KEY,
  device          {{.Int}} NOT NULL,
  active          {{.Int}} NOT NULL, -- 1 until nothing can happen to it any more
  idempotency_key {{.Name}},
  created_ms      {{.Int}} NOT NULL,
  body            {{.Blob}} NOT NULL -- signalbox.Command as JSON
) {{.KeyTable}};
CREATE INDEX IF NOT EXISTS command_device ON command (device, id);
{{- if .Partial}}
CREATE INDEX IF NOT EXISTS command_active ON command (id) WHERE active = 1;
CREATE UNIQUE INDEX IF NOT EXISTS command_key ON command (device, idempotency_key) WHERE idempotency_key IS NOT NULL;
{{- else}}
CREATE INDEX IF NOT EXISTS command_active ON command (active, id);
CREATE UNIQUE INDEX IF NOT EXISTS command_key ON command (device, idempotency_key);
{{- end}}

CREATE TABLE IF NOT EXISTS person (
  id            {{.ID}},
  name          {{.Name}} NOT NULL UNIQUE,
  password_hash {{.Name}} NOT NULL, -- bcrypt
  created_ms    {{.Int}} NOT NULL
) {{.Table}};

CREATE TABLE IF NOT EXISTS token (
  id         {{.ID}},
  name       {{.Name}} NOT NULL UNIQUE,
  hash       {{.Hash}} NOT NULL UNIQUE, -- SHA-256 of the secret
  scope      {{.Name}} NOT NULL,
  created_by {{.Name}} NOT NULL,
  created_ms {{.Int}} NOT NULL,
  expires_ms {{.Int}} NOT NULL,        -- 0: never
  used_ms    {{.Int}} NOT NULL         -- 0: never; kept to the minute
) {{.Table}};

-- Browser sessions of people.
CREATE TABLE IF NOT EXISTS login (
  hash       {{.Hash}} PRIMARY KEY, -- SHA-256 of the cookie's secret
  person     {{.Int}} NOT NULL,
  created_ms {{.Int}} NOT NULL,
  expires_ms {{.Int}} NOT NULL
) {{.Table}};
CREATE INDEX IF NOT EXISTS login_person ON login (person);

CREATE TABLE IF NOT EXISTS meta (
  name  {{.Name}} PRIMARY KEY,
  value {{.Text}} NOT NULL
) {{.Table}};

-- +goose Down
DROP TABLE IF EXISTS meta;
DROP TABLE IF EXISTS login;
DROP TABLE IF EXISTS token;
DROP TABLE IF EXISTS person;
DROP TABLE IF EXISTS command;
DROP TABLE IF EXISTS intake;
DROP TABLE IF EXISTS device_state;
DROP TABLE IF EXISTS device;
