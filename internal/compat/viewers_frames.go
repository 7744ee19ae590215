package compat

import (
	"bytes"
	"math"
	"strconv"
	"time"

	"github.com/tidwall/gjson"

	"signalbox/internal/wire"
)

// The words of viewers: text frames that are plain words, not JSON.
const (
	wordHello    = "hello"
	wordRealtime = "realtime"
	wordDatabase = "database:" // and a row's number
)

// What the original's server says, byte for byte as Python's json.dumps wrote it.
const (
	frameEmpty = `{"state": "OK", "type": "empty", "response": ""}`
	frameClose = `{"state": "OK", "type": "close", "response": ""}`
)

// greetings answer hello, in this order.
var greetings = [...]string{
	`{"state": "OK", "type": "hello", "response": "Hello, client!"}`,
	`{"state": "OK", "type": "hello", "response": "connect successfully!"}`,
	`{"state": "OK", "type": "sending", "response": "sending temperature data from esp32..."}`,
}

// numberBytes bounds how a number may be spelled.
const numberBytes = 1000

// timeLayout is how the original writes times.
const timeLayout = "2006-01-02 15:04:05"

// appendNewData is the frame of a new reading: temp is a string, the number as it was written.
func appendNewData(dst []byte, at time.Time, temp string) []byte {
	dst = append(dst, `{"state": "OK", "type": "new_data", "response": {"time": "`...)
	dst = at.AppendFormat(dst, timeLayout)
	dst = append(dst, `", "temp": `...)
	return append(wire.AppendPyString(dst, temp), "}}"...)
}

// appendOldData is the frame of a row of history: temp is a number. The original's column is of
// type FLOAT, so whole numbers have their point, too.
func appendOldData(dst []byte, at time.Time, temp float64) []byte {
	dst = append(dst, `{"state": "OK", "type": "old_data", "response": {"time": "`...)
	dst = at.AppendFormat(dst, timeLayout)
	dst = append(dst, `", "temp": `...)
	return append(wire.AppendPyFloat(dst, temp), "}}"...)
}

// appendError says in words what is wrong.
func appendError(dst []byte, words string) []byte {
	dst = append(dst, `{"state": "Error", "type": "error", "response": `...)
	return append(wire.AppendPyString(dst, words), '}')
}

// readingOf gives a field of a telemetry object if it is a number, or a string that is one: as it
// was written, and its value. Numbers beyond the range of float64 are none, nor is what is spelled
// with more than numberBytes: its frame alone might be more than may wait for a viewer.
func readingOf(object []byte, field string) (spelled string, value float64, ok bool) {
	found, ok := wire.Field(gjson.ParseBytes(object), field)
	if !ok || found.Type != gjson.Number && found.Type != gjson.String {
		return "", 0, false
	}
	number, ok := wire.BareNumber([]byte(wire.Spelled(found)))
	if !ok || len(number) > numberBytes {
		return "", 0, false
	}
	value, err := strconv.ParseFloat(string(number), 64)
	if err != nil || math.IsInf(value, 0) {
		return "", 0, false
	}
	return string(number), value, true
}

// parseAsk reads database:N. asks is false for any other text, fits for an N that is no decimal
// number from 0 to 2^63-1.
func parseAsk(text []byte) (row int64, asks, fits bool) {
	digits, asks := bytes.CutPrefix(text, []byte(wordDatabase))
	if !asks || len(digits) == 0 {
		return 0, asks, false
	}
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, true, false
		}
		if row > (math.MaxInt64-int64(c-'0'))/10 {
			return 0, true, false
		}
		row = row*10 + int64(c-'0')
	}
	return row, true, true
}
