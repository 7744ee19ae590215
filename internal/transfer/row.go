package transfer

import (
	"bytes"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/tidwall/gjson"

	"signalbox"
	"signalbox/internal/wire"
)

const (
	// MaxObject is the longest object of an import, in bytes.
	MaxObject = 16 << 20
	// maxRecord is the longest line or record of a text, in bytes.
	maxRecord = 2*MaxObject + 64<<10
	// MaxColumns bounds the columns of fields in an export of CSV.
	MaxColumns = 1000
	// MaxTyped bounds the columns of fields in an export of Parquet.
	MaxTyped = 200
)

// Format is how telemetry is written in a file.
type Format string

// The formats. Dump can only be read.
const (
	CSV     Format = "csv"
	NDJSON  Format = "ndjson"
	Parquet Format = "parquet"
	Dump    Format = "dump"
)

// Row is one message of a file.
type Row struct {
	// Line is where it begins in a text, from 1; in Parquet the number of the row.
	Line   int64
	Device string
	// Time is in Unix µs.
	Time   int64
	Object []byte
}

// Refusal is a row that cannot be taken; those behind it can.
type Refusal struct {
	Line   int64  `json:"line" doc:"The line, from 1; in Parquet the number of the row."`
	Device string `json:"device,omitempty"`
	Reason string `json:"reason"`
}

// Error tells the line and the reason.
func (r *Refusal) Error() string { return fmt.Sprintf("line %d: %s", r.Line, r.Reason) }

func refuse(line int64, device, format string, args ...any) *Refusal {
	return &Refusal{Line: line, Device: device, Reason: fmt.Sprintf(format, args...)}
}

// fault is what makes a whole file unreadable.
func fault(line int64, format string, args ...any) *signalbox.Error {
	return signalbox.Errorf(signalbox.KindInvalid, "invalid_file", "line %d: %s; nothing was imported", line, fmt.Sprintf(format, args...))
}

// timeLayout is how times are written: RFC 3339, UTC, all the microseconds that history has.
const timeLayout = "2006-01-02T15:04:05.000000Z"

func appendTime(dst []byte, micros int64) []byte {
	return time.UnixMicro(micros).UTC().AppendFormat(dst, timeLayout)
}

// checkObject says what is wrong with an object, "" for nothing.
func checkObject(object []byte) string {
	switch {
	case len(object) > MaxObject:
		return fmt.Sprintf("the object has %d bytes; at most %d are allowed", len(object), MaxObject)
	case !utf8.Valid(object):
		return "the object is not valid UTF-8"
	}
	var f wire.Frame
	if err := wire.Scan(object, wire.Limits{Depth: 64, Keys: 1 << 20}, &f); err != nil {
		return "this is no telemetry: " + err.Error()
	}
	return ""
}

// replayedReason is why what a replay played is not taken.
const replayedReason = "the message was played from the past by a replay, as its mark (replay, with a hub) says; history takes what devices reported: import an export of that hub instead"

// replayed reports whether an object has the mark of a replay, as a member or in the columns of
// a table.
func replayed(object []byte) bool {
	const hub = wire.ReplayMember + ".hub"
	if wire.Replayed(object) {
		return true
	}
	if !bytes.Contains(object, []byte(`"`+hub+`"`)) {
		return false
	}
	v, ok := wire.Field(gjson.ParseBytes(object), hub)
	return ok && v.Type == gjson.String && v.Str != ""
}

// appendCell writes a cell of a table as a JSON value.
func appendCell(dst []byte, cell string) []byte {
	if cell == "true" || cell == "false" || isNumber(cell) {
		return append(dst, cell...)
	}
	return wire.AppendString(dst, cell)
}

func isNumber(text string) bool {
	return text != "" && (text[0] == '-' || text[0] >= '0' && text[0] <= '9') && gjson.Valid(text)
}

// cutShort keeps errors short.
func cutShort(text string) string {
	const most = 100
	if len(text) > most {
		return text[:most] + "…"
	}
	return text
}
