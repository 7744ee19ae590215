package app

import (
	"log/slog"
	"math"

	"signalbox/internal/gateway"
)

const (
	// ownFiles is how many open files are kept for the database, the listeners and all else
	// that is no connection.
	ownFiles = 128
	// ownPart is the most that these take of few files.
	ownPart = 4
	// The connections of people and programs take at most peoplePart of all, but fewFiles at
	// least as long as that is not more than fewPart; more when devices leave it.
	peoplePart, fewFiles, fewPart = 20, 256, 4
	// viewersLeave is the part of people's connections that viewers of the stream leave to others,
	// and to those that are told there are too many of them.
	viewersLeave = 10
)

// share says how the files that the system lets this process open are divided.
type share struct {
	files   int // 0: no limit
	devices int // connections of devices that are served
	sockets int // and all there may be, with those that are being refused or end; 0: no limit
	http    int // connections of people and programs
	viewers int // of the stream, which is a connection each
	wanted  Config
}

// divide gives devices and people as many connections as they are set to, or, when so many
// files cannot be opened, as many as fit beside what the hub itself needs.
func divide(files int, c *Config) (s share) {
	s = share{files: files, devices: c.Devices.MaxConnections, http: c.HTTP.MaxConnections, wanted: *c}
	defer func() { s.viewers = max(min(c.Live.Viewers, s.http-max(s.http/viewersLeave, 1)), 1) }()
	if files == 0 {
		return s
	}
	left := files - min(ownFiles, files/ownPart)
	spare := left - gateway.Reach(s.devices) // when devices have all they are set to
	s.http = max(min(s.http, max(left/peoplePart, min(fewFiles, left/fewPart), spare)), 1)
	s.sockets = max(left-s.http, 1)
	most := s.sockets - (gateway.Reach(s.sockets) - s.sockets)
	s.devices = max(min(s.devices, most), 1)
	return s
}

// tell says in the log when there is less than was asked for; nobody has asked for the
// defaults.
func (s share) tell(logger *slog.Logger) {
	w, def := &s.wanted, DefaultConfig()
	if s.devices == w.Devices.MaxConnections && s.http == w.HTTP.MaxConnections {
		s.tellViewers(logger)
		return
	}
	say := logger.Warn
	if w.Devices.MaxConnections == def.Devices.MaxConnections && w.HTTP.MaxConnections == def.HTTP.MaxConnections {
		say = logger.Info
	}
	say("fewer connections than set are possible, because this process may not open more files (ulimit -n, LimitNOFILE)",
		"open_files", s.files, "device_connections", s.devices, "devices_max_connections", w.Devices.MaxConnections,
		"http_connections", s.http, "http_max_connections", w.HTTP.MaxConnections, "viewers", s.viewers, "live_viewers", w.Live.Viewers)
}

// tellViewers says in the log when connections are as set, and viewers are fewer.
func (s share) tellViewers(logger *slog.Logger) {
	w := &s.wanted
	if s.viewers == w.Live.Viewers {
		return
	}
	say := logger.Warn
	if w.Live.Viewers == DefaultConfig().Live.Viewers {
		say = logger.Info
	}
	say("fewer viewers than set are possible, because a tenth of the HTTP connections is kept for others (http.max_connections)",
		"viewers", s.viewers, "live_viewers", w.Live.Viewers, "http_max_connections", w.HTTP.MaxConnections)
}

// fileLimit turns the system's number into a share's: 0 for none, or for more than counts.
func fileLimit(limit uint64) int {
	if limit > math.MaxInt32 {
		return 0
	}
	return int(limit)
}
