package sim

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Fault is one way in which a device misbehaves.
type Fault string

// The faults.
const (
	NoFault Fault = ""
	// HalfOpen stops reading and writing after the first reading without closing the socket, as a board whose power or
	// network went away; after DeviceConfig.Hold it connects anew.
	HalfOpen Fault = "half-open"
	// Duplicate is two boards under one name.
	Duplicate Fault = "duplicate"
	// SlowReader takes one frame in five seconds from the hub.
	SlowReader Fault = "slow-reader"
	// ClockSkew sends a ts that is off by DeviceConfig.Skew (not in version 1, which has none).
	ClockSkew Fault = "clock-skew"
	// Malformed sends, each interval, the next of the wrong frames that Malformations lists, over MQTT of the wrong
	// packets of MQTTMalformations.
	Malformed Fault = "malformed"
	// Storm connects, logs in, and drops the connection at once, with 20 ms between connections.
	Storm Fault = "storm"
	// WrongPassword tries a wrong secret on every connection.
	WrongPassword Fault = "wrong-password"
)

// Faults lists the faults by name.
func Faults() []Fault {
	return []Fault{HalfOpen, Duplicate, SlowReader, ClockSkew, Malformed, Storm, WrongPassword}
}

func (f Fault) check() error {
	if f == NoFault || slices.Contains(Faults(), f) {
		return nil
	}
	names := make([]string, 0, len(Faults()))
	for _, known := range Faults() {
		names = append(names, string(known))
	}
	return fmt.Errorf("there is no fault named %q; allowed are %s", string(f), strings.Join(names, ", "))
}

// Malformation is one wrong thing to send on a connection that has logged in.
type Malformation struct {
	Name string
	// Raw is sent as it is: whole frames, masked where that is not what is wrong.
	Raw []byte
	// Tolerated says that a hub may take it; otherwise it has to refuse it or to close.
	Tolerated bool
}

// Malformations lists wrong frames, the same each time.
func Malformations() []Malformation {
	mask := [4]byte{0x5a, 0x17, 0xc3, 0x88}
	text := func(payload string) []byte { return appendFrame(nil, opText, []byte(payload), mask) }
	header := func(op byte, length uint64) []byte {
		b := []byte{op, masked | 127}
		return append(binary.BigEndian.AppendUint64(b, length), mask[:]...)
	}
	unmasked := append([]byte{final | opText, 20}, `{"type":"telemetry"}`...)
	control := appendFrame(nil, opPing, make([]byte, 126), mask)
	reserved := text(`{"type":"telemetry"}`)
	reserved[0] |= 0x40
	return []Malformation{
		{Name: "malformed JSON", Raw: text(`{"type":"telemetry","servo1":`)},
		{Name: "JSON that is no object", Raw: text(`[1,2,3]`)},
		{Name: "empty text", Raw: text(``)},
		{Name: "unmasked frame", Raw: unmasked},
		{Name: "reserved bit", Raw: reserved},
		{Name: "unknown opcode", Raw: appendFrame(nil, 3, []byte("x"), mask)},
		{Name: "oversized control frame", Raw: control},
		{Name: "continuation of nothing", Raw: appendFrame(nil, 0, []byte("x"), mask)},
		{Name: "invalid UTF-8", Raw: text("{\"type\":\"telemetry\",\"status\":\"\xff\xfe\"}")},
		{Name: "binary garbage", Raw: appendFrame(nil, opBinary, []byte{0, 1, 2, 0xff}, mask)},
		{Name: "binary JSON", Raw: appendFrame(nil, opBinary, []byte(`{"type":"telemetry","status":"ok"}`), mask), Tolerated: true},
		{Name: "over-long frame", Raw: text(`{"type":"telemetry","x":"` + strings.Repeat("y", 2<<20) + `"}`)},
		{Name: "huge declared length", Raw: header(final|opText, 1<<62)},
		{Name: "negative declared length", Raw: header(final|opText, 1<<63|5)},
		{Name: "deep nesting", Raw: text(`{"type":"telemetry","x":` + strings.Repeat(`{"a":`, 10_000) + `1` + strings.Repeat(`}`, 10_000) + `}`), Tolerated: true},
		{Name: "huge numbers", Raw: text(`{"type":"telemetry","x":1e999999,"y":` + strings.Repeat("9", 5000) + `}`), Tolerated: true},
		{Name: "duplicate keys", Raw: text(`{"type":"telemetry","servo1":1,"servo1":2}`), Tolerated: true},
		{Name: "many keys", Raw: text(`{"type":"telemetry"` + manyKeys(5000) + `}`), Tolerated: true},
	}
}

func manyKeys(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"k%d":%d`, i, i)
	}
	return b.String()
}

// misbehave lets the fault act at a reading, before it is sent. An error ends the connection.
func (d *Device) misbehave(ctx context.Context, c line) error {
	switch d.cfg.Fault {
	case HalfOpen:
		if d.acts++; d.acts%2 == 1 { // one good reading first
			return nil
		}
		d.cfg.Counters.Faults.Add(1)
		hold := time.NewTimer(d.cfg.Hold)
		defer hold.Stop()
		select {
		case <-ctx.Done():
		case <-hold.C:
		}
		return errHangUp
	case Malformed:
		list := d.cfg.malformations
		wrong := list[d.acts%len(list)]
		d.acts++
		d.cfg.Counters.Faults.Add(1)
		d.cfg.Logger.Debug("sending a malformed frame", "device", d.cfg.Name, "what", wrong.Name)
		return c.writeRaw(wrong.Raw)
	default:
		return nil
	}
}
