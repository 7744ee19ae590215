package packet

import (
	"bytes"
	"io"
	"reflect"
	"testing"

	v5 "github.com/eclipse/paho.golang/packets"
	v3 "github.com/eclipse/paho.mqtt.golang/packets"
)

// TestPaho gives every golden packet to another project's codec and takes back what that makes
// of it: both must mean the same, but for what that codec is known to lose (see lose).
func TestPaho(t *testing.T) {
	for _, g := range goldens() {
		if kind := Type(g.want[0] >> 4); g.v == V5 && len(g.want) == 2 && (kind == DISCONNECT || kind == AUTH) {
			continue // it wants a reason code where 3.14.2.1 and 3.15.2.1 let it be left out
		}
		t.Run(g.name, func(t *testing.T) {
			var theirs bytes.Buffer
			if err := viaPaho(&theirs, g.want, g.v); err != nil {
				t.Fatal(err)
			}
			var ours, back Packet
			if err := ours.Decode(g.want, g.v); err != nil {
				t.Fatal(err)
			}
			if err := back.Decode(theirs.Bytes(), g.v); err != nil {
				t.Fatalf("%v\n% x", err, theirs.Bytes())
			}
			lose(&ours)
			if is, was := plain(&back), plain(&ours); !reflect.DeepEqual(is, was) {
				t.Errorf("paho makes of it\n%+v, not\n%+v", is, was)
			}
		})
	}
}

func viaPaho(to io.Writer, b []byte, v Version) error {
	if v == V5 {
		c, err := v5.ReadPacket(bytes.NewReader(b))
		if err != nil {
			return err
		}
		_, err = c.WriteTo(to)
		return err
	}
	c, err := v3.ReadPacket(bytes.NewReader(b))
	if err != nil {
		return err
	}
	return c.Write(to)
}

// lose takes from p what paho.golang does not write: most properties of a will, empty
// correlation data, and all subscription identifiers but the last.
func lose(p *Packet) {
	will := &p.Connect.WillProperties
	for _, id := range []Property{PayloadFormat, MessageExpiry, ContentType, ResponseTopic, CorrelationData} {
		will.Unset(id)
	}
	if len(p.Properties.CorrelationData) == 0 {
		p.Properties.Unset(CorrelationData)
	}
	if n := len(p.Properties.MoreSubscriptionIDs); n > 0 {
		p.Properties.SubscriptionID, p.Properties.MoreSubscriptionIDs = p.Properties.MoreSubscriptionIDs[n-1], nil
	}
}
