package gateway

import (
	"strconv"
	"time"

	"signalbox"
	"signalbox/internal/wire"
)

// The frames of version 1, byte for byte.
const (
	frameAuthRequired = `{"error": "auth_required"}`
	frameUnauthorized = `{"error": "unauthorized"}`
)

// appendCommand writes c as the device's protocol wants it.
func appendCommand(dst []byte, c *signalbox.Command, p signalbox.Protocol) ([]byte, error) {
	if !p.Answers() {
		dst = append(dst, `{"command": `...)
		dst = wire.AppendPyString(dst, c.Name)
		if c.Value != nil {
			dst = append(dst, `, "value": `...)
			dst = wire.AppendPyString(dst, *c.Value)
		}
		return append(dst, '}'), nil
	}
	return wire.AppendCommand(dst, c)
}

func authOK(name string, heartbeat time.Duration, saved uint64) []byte {
	dst := append([]byte(nil), `{"type":"auth_ok","name":`...)
	dst = wire.AppendPyString(dst, name)
	dst = append(dst, `,"time":`...)
	dst = strconv.AppendInt(dst, time.Now().UnixMilli(), 10)
	dst = append(dst, `,"heartbeat":`...)
	dst = strconv.AppendInt(dst, int64(heartbeat/time.Second), 10)
	dst = append(dst, `,"saved":`...)
	dst = strconv.AppendUint(dst, saved, 10)
	return append(dst, '}')
}

func appendSaved(dst []byte, seq uint64) []byte {
	dst = append(dst, `{"type":"saved","seq":`...)
	dst = strconv.AppendUint(dst, seq, 10)
	return append(dst, '}')
}

func pong() []byte {
	return append(strconv.AppendInt([]byte(`{"type":"pong","time":`), time.Now().UnixMilli(), 10), '}')
}

// errorFrame is version 2's error; seq names the message it is about, 0 none.
func errorFrame(code, message string, seq uint64) []byte {
	dst := append([]byte(nil), `{"error":`...)
	dst = wire.AppendPyString(dst, code)
	dst = append(dst, `,"message":`...)
	dst = wire.AppendPyString(dst, message)
	if seq != 0 {
		dst = append(dst, `,"seq":`...)
		dst = strconv.AppendUint(dst, seq, 10)
	}
	return append(dst, '}')
}
