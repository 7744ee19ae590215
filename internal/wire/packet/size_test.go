package packet

import (
	"bytes"
	"testing"
)

func TestSize(t *testing.T) {
	for _, r := range []struct {
		name  string
		b     []byte
		total int
		ok    bool
		bad   bool
	}{
		{"nothing yet", nil, 0, false, false},
		{"the first byte", raw(0x30), 0, false, false},
		{"a ping", raw(0xC0, 0), 2, true, false},
		{"a ping and the next packet", raw(0xC0, 0, 0xC0, 0), 2, true, false},
		{"the header alone", raw(0x30, 127), 129, true, false},
		{"half a length", raw(0x30, 0x80), 0, false, false},
		{"128", raw(0x30, 0x80, 0x01), 131, true, false},
		{"16,383", raw(0x30, 0xFF, 0x7F), 16386, true, false},
		{"16,384", raw(0x30, 0x80, 0x80, 0x01), 16388, true, false},
		{"2,097,151", raw(0x30, 0xFF, 0xFF, 0x7F), 2097155, true, false},
		{"2,097,152", raw(0x30, 0x80, 0x80, 0x80, 0x01), 2097157, true, false},
		{"the longest", raw(0x30, 0xFF, 0xFF, 0xFF, 0x7F), MaxRemaining + 5, true, false},
		{"three bytes that go on", raw(0x30, 0xFF, 0xFF, 0xFF), 0, false, false},
		{"2.1.4: four bytes that go on", raw(0x30, 0xFF, 0xFF, 0xFF, 0xFF), 0, false, true},
		{"2.1.4: five bytes", raw(0x30, 0xFF, 0xFF, 0xFF, 0x80, 0x01), 0, false, true},
		{"2.1.2: type 0", raw(0), 0, false, true},
		{"[MQTT-2.1.3-1]: the first byte of TLS", raw(0x16), 0, false, true},
		{"[MQTT-2.1.3-1]: the first byte of HTTP", raw("G"), 0, false, true},
		{"[MQTT-3.3.1-4]: both QoS bits", raw(0x36), 0, false, true},
	} {
		t.Run(r.name, func(t *testing.T) {
			total, ok, err := Size(r.b)
			if total != r.total || ok != r.ok || (err != nil) != r.bad {
				t.Errorf("%d %v %v", total, ok, err)
			}
		})
	}
}

func TestVarint(t *testing.T) {
	for _, n := range []int{0, 1, 127, 128, 16383, 16384, 2097151, 2097152, MaxRemaining} {
		b := appendVarint(nil, n)
		if len(b) != varintSize(n) {
			t.Errorf("%d takes %d bytes, not %d", n, len(b), varintSize(n))
		}
		value, size, minimal := varint(append(bytes.Clone(b), 0x55))
		if value != n || size != len(b) || !minimal {
			t.Errorf("%d reads back as %d, %d bytes, minimal %v", n, value, size, minimal)
		}
		for cut := range b {
			if _, size, _ := varint(b[:cut]); size != 0 {
				t.Errorf("%d cut to %d bytes: size %d", n, cut, size)
			}
		}
	}
}
