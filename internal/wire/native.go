package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"strings"

	"github.com/tidwall/gjson"

	"signalbox"
)

// The native tree, the MQTT topics to which the hub gives a meaning of its own:
// signalbox/<device>/<one of these>.
const (
	NativePrefix    = "signalbox/"
	NativeTelemetry = "telemetry"
	NativeStatus    = "status"
	NativeCommand   = "command"
	NativeAck       = "ack"
	NativeResult    = "result"
	NativeError     = "error"
)

// SplitNative takes signalbox/<device>/<rest> apart; ok is false for another topic.
func SplitNative(topic string) (device, rest string, ok bool) {
	after, ok := strings.CutPrefix(topic, NativePrefix)
	if !ok {
		return "", "", false
	}
	return strings.Cut(after, "/")
}

// Codes of a Fault.
const (
	FaultUTF8        = "invalid_utf8"
	FaultNotObject   = "not_an_object"
	FaultTooDeep     = "too_deep"
	FaultTooManyKeys = "too_many_keys"
	FaultSeq         = "invalid_seq"
	FaultTime        = "invalid_ts"
	FaultReplayed    = "replayed"
	FaultID          = "invalid_id"
)

// Fault is why a message of a device is refused, as the device is told.
type Fault struct {
	Code, Text string
	// Seq is the number of the message that was refused, where that is certain; else 0.
	Seq uint64
}

// Error implements error.
func (f *Fault) Error() string { return f.Text }

// Telemetry is what a telemetry message of protocol version 2 says to the hub itself.
type Telemetry struct {
	// Seq is the message's number, 0 without one.
	Seq uint64
	// Boot is made of the device's own mark of its power-up; 0 without a mark, or without Seq.
	// It has its highest bit set, so that it is no number of a session.
	Boot uint64
	// TimeMicros is the device's own time, Unix µs, 0 for none.
	TimeMicros int64
}

// ReadTelemetry reads the reserved keys of a telemetry object over MQTT. With a fault nothing
// of it is to be stored; t then holds what was read before it.
func ReadTelemetry(body []byte, limits Limits) (t Telemetry, fault *Fault) {
	if !ValidText(body) {
		return t, &Fault{Code: FaultUTF8, Text: "Telemetry must be a JSON object, or a number, in UTF-8."}
	}
	var f Frame
	err := Scan(body, limits, &f)
	if f.Seq != nil && err == nil {
		seq, ok := Uint(f.Seq)
		if !ok || seq == 0 {
			return t, &Fault{Code: FaultSeq, Text: "seq must be a whole number from 1 to 2^63-1."}
		}
		t.Seq = seq
		if boot, ok := Text(f.Boot); ok && len(boot) > 0 {
			h := fnv.New64a()
			_, _ = h.Write(boot) // never fails
			t.Boot = h.Sum64() | 1<<63
		}
	}
	switch {
	case errors.Is(err, ErrTooDeep):
		return t, &Fault{Code: FaultTooDeep, Text: err.Error()}
	case errors.Is(err, ErrTooManyKeys):
		return t, &Fault{Code: FaultTooManyKeys, Text: err.Error()}
	case err != nil:
		return t, &Fault{Code: FaultNotObject, Text: "Telemetry must be a JSON object, or a number."}
	}
	if f.TS != nil && string(f.TS) != "null" { // a board whose clock is not set yet
		micros, ok := Time(f.TS)
		if !ok {
			return t, &Fault{Code: FaultTime, Text: "ts must be Unix milliseconds, as a number, or a time in RFC 3339, as a string; the message was not stored.", Seq: t.Seq}
		}
		t.TimeMicros = micros
	}
	if Replayed(body) {
		return t, &Fault{Code: FaultReplayed, Text: "The message is played from the past, as its member replay says; a hub does not store such messages.", Seq: t.Seq}
	}
	return t, nil
}

// BareNumber gives the number that a whole payload is, as JSON spells it (RFC 8259, section 6),
// white space around it aside.
func BareNumber(payload []byte) (number []byte, ok bool) {
	number = bytes.TrimSpace(payload)
	if len(number) == 0 || number[0] != '-' && (number[0] < '0' || number[0] > '9') {
		return nil, false
	}
	return number, json.Valid(number)
}

// AppendNumber appends the telemetry that a bare number is: {"value":n}.
func AppendNumber(dst, number []byte) []byte {
	return append(append(append(dst, `{"value":`...), number...), '}')
}

// ReadAnswer reads an ack or a result of a command over MQTT: the id of the command, and the
// frame for Outcome.
func ReadAnswer(body []byte, limits Limits, f *Frame) (id string, fault *Fault) {
	if !ValidText(body) || Scan(body, limits, f) != nil {
		return "", &Fault{Code: FaultNotObject, Text: "An ack and a result are JSON objects."}
	}
	text, ok := Text(f.ID)
	if !ok {
		return "", &Fault{Code: FaultID, Text: "An ack and a result need the id of the command, as a string."}
	}
	return string(text), nil
}

// Outcome reads what a result says besides its id; value is a copy, nil without one.
func (f *Frame) Outcome() (ok bool, value json.RawMessage, text string) {
	if f.Value != nil {
		value = append(value, f.Value...)
	}
	if f.Error != nil {
		text = gjson.ParseBytes(f.Error).String()
	}
	// Without "ok" an error tells of failure.
	return string(f.OK) == "true" || f.OK == nil && f.Error == nil, value, text
}

// AppendCommand appends a command as protocol version 2 has it, over WebSocket and MQTT.
func AppendCommand(dst []byte, c *signalbox.Command) ([]byte, error) {
	frame := struct {
		Type    string  `json:"type"`
		ID      string  `json:"id"`
		Command string  `json:"command"`
		Value   *string `json:"value,omitempty"`
		Expires int64   `json:"expires,omitempty"`
	}{Type: "command", ID: c.ID, Command: c.Name, Value: c.Value}
	if !c.ExpiresAt.IsZero() {
		frame.Expires = c.ExpiresAt.UnixMilli()
	}
	b, err := json.Marshal(frame)
	if err != nil {
		return dst, fmt.Errorf("encode command: %w", err)
	}
	return append(dst, b...), nil
}
