package signalbox_test

import (
	"net/netip"
	"testing"

	"signalbox"
)

func TestNetwork(t *testing.T) {
	for given, want := range map[string]string{
		"10.1.2.3/8": "10.0.0.0/8", "::ffff:127.0.0.0/104": "127.0.0.0/8", "::ffff:10.1.2.3/128": "10.1.2.3/32",
		"::ffff:0:0/96": "0.0.0.0/0", "::/0": "::/0", "::ffff:0:0/95": "::fffe:0:0/95", "fd00::1/8": "fd00::/8",
	} {
		if got := signalbox.Network(netip.MustParsePrefix(given)); got.String() != want {
			t.Errorf("%s gives %s, want %s", given, got, want)
		}
	}
}
