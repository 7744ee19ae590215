-- +goose Up
-- Forwarders that were set through the API (forward); others are in the configuration.
CREATE TABLE IF NOT EXISTS forwarder (
  id         {{.ID}},
  name       {{.Name}} NOT NULL UNIQUE,
  spec       {{.Blob}} NOT NULL,  -- JSON, without secrets
  secrets    {{.Blob}} NOT NULL,  -- sealed under the key file; empty: none
  paused     {{.Int}} NOT NULL,
  created_by {{.Name}} NOT NULL,
  created_ms {{.Int}} NOT NULL
) {{.Table}};

-- How far forwarders are in the log, those of the configuration included.
CREATE TABLE IF NOT EXISTS forwarder_place (
  name     {{.Name}} PRIMARY KEY,
  settled  {{.Int}} NOT NULL, -- position up to which receivers have everything
  sent     {{.Int}} NOT NULL, -- position up to which something may have been sent
  flowing  {{.Int}} NOT NULL,
  counters {{.Blob}} NOT NULL
) {{.KeyTable}};

-- What receivers did not take.
CREATE TABLE IF NOT EXISTS forwarder_dead (
  id          {{.ID}},
  name        {{.Name}} NOT NULL, -- of the forwarder
  position    {{.Int}} NOT NULL,
  kind        {{.Int}} NOT NULL,  -- signalbox.EntryKind
  device      {{.Int}} NOT NULL,
  device_name {{.Name}} NOT NULL, -- at that time
  received_us {{.Int}} NOT NULL,
  time_us     {{.Int}} NOT NULL,
  at_us       {{.Int}} NOT NULL,  -- when it was given up
  attempts    {{.Int}} NOT NULL,
  status      {{.Int}} NOT NULL,  -- what the receiver answered; 0: no number
  reason      {{.Text}} NOT NULL,
  body        {{.Blob}} NOT NULL  -- as it was sent
) {{.Table}};
CREATE INDEX IF NOT EXISTS forwarder_dead_name ON forwarder_dead (name, id);

-- +goose Down
DROP TABLE forwarder;
DROP TABLE forwarder_place;
DROP TABLE forwarder_dead;
