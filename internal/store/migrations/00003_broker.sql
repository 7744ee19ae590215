-- +goose Up
-- What the MQTT broker keeps over a restart, as of the log position broker_checkpoint in meta
-- or later; what came after is in the log (package durable of broker, which has the formats).
CREATE TABLE IF NOT EXISTS broker_session (
  id    {{.Int}} PRIMARY KEY, -- never used twice
  head  {{.Blob}} NOT NULL,   -- whose it is
  will  {{.Blob}} NOT NULL,   -- empty: none
  subs  {{.Blob}} NOT NULL,   -- subscriptions
  state {{.Blob}} NOT NULL    -- what changes often: counters, connection, packet identifiers
) {{.Table}};

-- Messages that wait, many to a row. Rows of sessions that are gone, and such of which all
-- messages are acknowledged, are left over and deleted some time.
CREATE TABLE IF NOT EXISTS broker_queue (
  id      {{.Int}} PRIMARY KEY,
  session {{.Int}} NOT NULL,
  n0      {{.Int}} NOT NULL, -- numbers of the first and the last message in the session's queue
  n1      {{.Int}} NOT NULL,
  bytes   {{.Int}} NOT NULL, -- of the messages
  body    {{.Blob}} NOT NULL
) {{.Table}};
CREATE INDEX IF NOT EXISTS broker_queue_session ON broker_queue (session, n0, n1, bytes);
{{- if .External}}
ALTER TABLE broker_queue ALTER COLUMN body SET STORAGE EXTERNAL;
{{- end}}

CREATE TABLE IF NOT EXISTS broker_retained (
  topic {{.Hash}} PRIMARY KEY, -- SHA-256 of its name
  body  {{.Blob}} NOT NULL
) {{.Table}};

-- +goose Down
DROP TABLE broker_session;
DROP TABLE broker_queue;
DROP TABLE broker_retained;
