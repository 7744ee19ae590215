package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tidwall/gjson"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/registry"
	"signalbox/internal/wire"
)

const (
	// recentMessages are looked at first for a field that an answer does not have.
	recentMessages = 100
	// fieldPatience is how long older ones are looked through after that. A field that is not
	// found in that time gets the benefit of the doubt.
	fieldPatience = 500 * time.Millisecond
	// namedFields is how many unknown fields an error names, and knownFields how many others.
	namedFields = 5
	knownFields = 20
)

// chosenFields gives the fields asked for, each once.
func chosenFields(asked []string) ([]string, error) {
	var fields []string
	seen := make(map[string]bool, len(asked))
	for _, f := range asked {
		if err := signalbox.CheckField("field", f); err != nil {
			return nil, badQuery("invalid_fields", "query.fields", err.Error())
		}
		if !seen[f] {
			seen[f] = true
			fields = append(fields, f)
		}
	}
	if len(fields) > MaxColumns {
		return nil, signalbox.Errorf(signalbox.KindInvalid, "too_many_columns", "fields names %d fields; at most %d are allowed", len(fields), MaxColumns)
	}
	return fields, nil
}

// sought are fields of which no message was found yet.
type sought struct {
	fields []string
	tails  [][]byte
}

func newSought(fields []string) *sought {
	s := &sought{fields: slices.Clone(fields)}
	for _, f := range fields {
		s.tails = append(s.tails, wire.FieldTail(f))
	}
	return s
}

// look takes out the fields that object has. done says that none is left.
func (s *sought) look(object []byte) (done bool) {
	escaped := wire.HasEscape(object)
	var whole gjson.Result
	for i := 0; i < len(s.fields); i++ {
		if !escaped && !bytes.Contains(object, s.tails[i]) {
			continue
		}
		if whole.Raw == "" {
			whole = gjson.ParseBytes(object)
		}
		if _, ok := wire.Field(whole, s.fields[i]); ok {
			s.fields, s.tails = slices.Delete(s.fields, i, i+1), slices.Delete(s.tails, i, i+1)
			i--
		}
	}
	return len(s.fields) == 0
}

// checkFields refuses fields of which neither the answer nor any other message of the device
// has one. Nothing is known of a device without messages.
func (s *server) checkFields(ctx context.Context, d *registry.Device, fields []string, items []signalbox.Telemetry) error {
	left := newSought(fields)
	done := len(fields) == 0
	for i := 0; i < len(items) && !done; i++ {
		done = left.look(items[i].Object)
	}
	if done {
		return nil
	}
	recent, err := s.History.Page(ctx, history.Query{Device: d.ID, Limit: recentMessages})
	if err != nil || len(recent) == 0 {
		return err
	}
	for i := range recent {
		if left.look(recent[i].Object) {
			return nil
		}
	}
	return s.checkAll(ctx, []signalbox.DeviceID{d.ID}, left, recent[0].Object)
}

var errFound = errors.New("all fields were found")

// checkAll refuses the fields that are left when all messages of the devices were looked
// through, or nothing when that takes too long; nil are all devices. example is an object of
// which the error names fields; nil: none.
func (s *server) checkAll(ctx context.Context, devices []signalbox.DeviceID, left *sought, example []byte) error {
	hurry, cancel := context.WithTimeout(ctx, fieldPatience)
	defer cancel()
	some := false
	err := s.History.ScanTime(hurry, history.ScanQuery{Devices: devices}, func(e *signalbox.Entry) error {
		some = true
		if left.look(e.Body) {
			return errFound
		}
		return nil
	})
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, errFound), hurry.Err() != nil, err == nil && !some:
		return nil
	case err != nil:
		return err
	}
	return unknownField(left.fields, example)
}

// unknownField is the error for fields that no message has.
func unknownField(fields []string, example []byte) error {
	quoted := make([]string, 0, len(fields))
	for _, f := range fields[:min(len(fields), namedFields)] {
		quoted = append(quoted, fmt.Sprintf("%q", short(f)))
	}
	text := "none of the messages there are has a field " + list(quoted)
	if more := len(fields) - len(quoted); more > 0 {
		text += fmt.Sprintf(" (and %d more)", more)
	}
	var known []string
	wire.Flatten(gjson.ParseBytes(example), func(name string, _ gjson.Result) bool {
		if name = short(name); !slices.Contains(known, name) {
			known = append(known, name)
		}
		return len(known) < knownFields
	})
	if len(known) > 0 {
		text += "; the latest has " + list(known)
	}
	return badQuery("unknown_field", "query.fields", text)
}
