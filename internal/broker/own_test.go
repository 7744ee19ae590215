package broker_test

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"signalbox/internal/broker"
	"signalbox/internal/broker/durable"
	"signalbox/internal/history"
	"signalbox/internal/wire/packet"
)

// TestPublishOwn publishes a word of the hub's where others may have theirs retained.
func TestPublishOwn(t *testing.T) {
	for _, where := range []string{"memory", "disk"} {
		t.Run(where, func(t *testing.T) {
			var h *hub
			if where == "disk" {
				h = disk(t, t.TempDir(), broker.Config{}, nil)
			} else {
				h = memory(t, broker.Config{}, nil)
			}
			c := h.connect(t, "device")
			c.subscribe(t, filter("status", 0))
			own := func(text string) error {
				return h.PublishOwn(&durable.Message{Topic: "status", Payload: []byte(text), Retain: true})
			}
			for _, text := range []string{"one", "two"} {
				if err := own(text); err != nil {
					t.Fatal("over nothing, and over its own:", err)
				}
				if g := c.want(t, packet.PUBLISH); g.payload != text {
					t.Errorf("the subscriber got %q", g.payload)
				}
			}
			c.publish(t, "status", "the device's", 0, 0, retain)
			if g := c.want(t, packet.PUBLISH); g.payload != "the device's" {
				t.Errorf("the subscriber got %q", g.payload)
			}
			if err := own("three"); !errors.Is(err, broker.ErrOthers) {
				t.Errorf("over the device's: %v", err)
			}
			c.publish(t, "status", "", 0, 0, retain)
			if g := c.want(t, packet.PUBLISH); g.payload != "" { // and nothing in between
				t.Errorf("the subscriber got %q", g.payload)
			}
			if err := own("four"); err != nil {
				t.Error("after the device took its own away:", err)
			}
		})
	}
}

// TestPublishOwnWithoutRoom: what could not be retained anyway does not go past another's either.
func TestPublishOwnWithoutRoom(t *testing.T) {
	h := memory(t, broker.Config{RetainedBytes: 400}, nil)
	c := h.connect(t, "device")
	c.subscribe(t, filter("#", 0))
	long := strings.Repeat("x", 1000)
	if err := h.PublishOwn(&durable.Message{Topic: "other", Payload: []byte(long), Retain: true}); err != nil {
		t.Error("where nothing is:", err)
	}
	if g := c.want(t, packet.PUBLISH); g.payload != long {
		t.Errorf("the subscriber got %q", g.payload)
	}
	c.publish(t, "status", "the device's", 0, 0, retain)
	c.want(t, packet.PUBLISH)
	if err := h.PublishOwn(&durable.Message{Topic: "status", Payload: []byte(long), Retain: true}); !errors.Is(err, broker.ErrOthers) {
		t.Errorf("over the device's: %v", err)
	}
	c.publish(t, "end", "", 0, 0)
	if g := c.want(t, packet.PUBLISH); g.topic != "end" {
		t.Errorf("the subscriber got %q on %s", g.payload, g.topic)
	}
}

// TestPublishOwnBesideADevice: whatever comes at the same moment, what the device retained stays.
func TestPublishOwnBesideADevice(t *testing.T) {
	h := memory(t, broker.Config{}, nil)
	c := h.connect(t, "device")
	for range 300 {
		c.publish(t, "status", "", 0, 0, retain)
		var work sync.WaitGroup
		work.Go(func() {
			err := h.PublishOwn(&durable.Message{Topic: "status", Payload: []byte("the hub's"), Retain: true})
			if err != nil && !errors.Is(err, broker.ErrOthers) && !errors.Is(err, history.ErrFull) {
				t.Error(err)
			}
		})
		c.publish(t, "status", "the device's", 0, 0, retain)
		work.Wait()
		if owner, ok := h.RetainedBy("status"); !ok || owner != "o" {
			t.Fatalf("the retained message is that of %q", owner)
		}
	}
}
