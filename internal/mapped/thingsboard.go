package mapped

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/tidwall/gjson"

	"signalbox"
	"signalbox/internal/wire"
)

// Topics of ThingsBoard's device API (thingsboard.io, «MQTT Device API Reference»).
const (
	tbRoot       = "v1/devices/me/"
	tbTelemetry  = "v1/devices/me/telemetry"
	tbAttributes = "v1/devices/me/attributes"
	tbRequest    = "v1/devices/me/rpc/request/"
	tbResponse   = "v1/devices/me/rpc/response/"
)

// Limits of the dialect.
const (
	// maxBatch bounds the messages of one payload.
	maxBatch = 1000
	// maxCalls bounds the unanswered commands of one device; the oldest gives way.
	maxCalls = 256
)

// ThingsBoard is ThingsBoard's device API: telemetry and attributes of a device, and commands
// as requests from the server (RPC). Requests by the device, attributes from the server, claiming
// and firmware are not part of it.
type ThingsBoard struct {
	// Limits and MaxBody bound a telemetry message; zero takes the defaults.
	Limits  wire.Limits
	MaxBody int
}

var _ Dialect = ThingsBoard{}

// MayPublish implements Dialect.
func (ThingsBoard) MayPublish(topic string) bool {
	id, answer := strings.CutPrefix(topic, tbResponse)
	return topic == tbTelemetry || topic == tbAttributes || answer && !strings.Contains(id, "/")
}

// MaySubscribe implements Dialect. Filters of which nothing ever comes are allowed too, because
// the platform's client libraries subscribe to them.
func (ThingsBoard) MaySubscribe(filter string) bool {
	rest, ok := strings.CutPrefix(filter, tbRoot)
	if !ok {
		return false
	}
	switch first, _, _ := strings.Cut(rest, "/"); first {
	case "rpc", "attributes", "#":
		return true
	default:
		return false
	}
}

// Telemetry implements Dialect: an object of values, {"ts":…,"values":{…}}, or an array of
// these. ts is Unix ms.
func (tb ThingsBoard) Telemetry(into []Message, topic string, payload []byte) ([]Message, bool, error) {
	if topic != tbTelemetry && topic != tbAttributes {
		return into, false, nil
	}
	start := len(into)
	payload = trim(payload)
	if len(payload) == 0 || payload[0] != '[' {
		message, err := tb.message(payload, topic)
		if err != nil {
			return into, true, err
		}
		return append(into, message), true, nil
	}
	switch {
	case !utf8.Valid(payload):
		return into, true, errInvalidBytes
	case tooDeep(payload) || !gjson.ValidBytes(payload):
		return into, true, errJSON
	}
	var err error
	gjson.ParseBytes(payload).ForEach(func(_, value gjson.Result) bool {
		if len(into)-start == maxBatch {
			err = fmt.Errorf("the payload has more than %d messages", maxBatch)
			return false
		}
		var message Message
		if message, err = tb.message(payload[value.Index:value.Index+len(value.Raw)], topic); err != nil {
			return false
		}
		into = append(into, message)
		return true
	})
	if err == nil && len(into) == start {
		err = errors.New("the payload is an array without messages")
	}
	if err != nil {
		return into[:start], true, err
	}
	return into, true, nil
}

// tooDeep reports whether arrays and objects stand more than 64 levels inside each other, which
// is looked at before anything walks down there. It takes brackets in texts for such.
func tooDeep(payload []byte) bool {
	depth := 0
	for _, c := range payload {
		switch c {
		case '[', '{':
			if depth++; depth > 64 {
				return true
			}
		case ']', '}':
			depth--
		}
	}
	return false
}

// message reads one object.
func (tb ThingsBoard) message(object []byte, topic string) (Message, error) {
	limit := tb.MaxBody
	if limit <= 0 {
		limit = DefaultMaxBody
	}
	var f wire.Frame
	switch {
	case len(object) > limit:
		return Message{}, fmt.Errorf("the telemetry has %d bytes; at most %d are allowed", len(object), limit)
	case !utf8.Valid(object):
		return Message{}, errInvalidBytes
	}
	if err := wire.Scan(object, tb.Limits, &f); err != nil {
		return Message{}, err
	}
	if topic == tbAttributes || f.TS == nil {
		return Message{Body: object}, nil
	}
	values := gjson.GetBytes(object, "values")
	if !values.IsObject() {
		return Message{Body: object}, nil // values of its own that happen to have that name
	}
	at, ok := wire.Time(f.TS)
	if !ok {
		return Message{}, errors.New("the time ts is no Unix time in milliseconds")
	}
	return Message{Body: object[values.Index : values.Index+len(values.Raw)], TimeMicros: at}, nil
}

// Converse implements Dialect.
func (ThingsBoard) Converse(after int) Conversation { return &tbCalls{last: after} }

// tbCalls are the commands of a device that it has not answered. ThingsBoard numbers
// its requests; a command's ID is a text.
type tbCalls struct {
	mu   sync.Mutex
	last int
	open []tbCall // in the order of their numbers
}

type tbCall struct {
	number int
	id     string
}

// Listens implements Conversation.
func (*tbCalls) Listens(filter string) bool {
	switch filter {
	case tbRequest + "+", tbRequest + "#", "v1/devices/me/rpc/#", "v1/devices/me/#", "v1/devices/me/rpc/+/+":
		return true
	default:
		return false
	}
}

// Command implements Conversation: {"method":…,"params":…}.
func (t *tbCalls) Command(c *signalbox.Command) (topic string, payload []byte, err error) {
	if !utf8.ValidString(c.Name) {
		return "", nil, signalbox.Errorf(signalbox.KindInvalid, "command_unsuitable", "the command %q is not valid UTF-8", c.Name)
	}
	number := t.number(c.ID)
	payload = append(wire.AppendString([]byte(`{"method":`), c.Name), `,"params":`...)
	payload = append(appendJSON(payload, c.Value), '}')
	return tbRequest + strconv.Itoa(number), payload, nil
}

// number gives the number of a command.
func (t *tbCalls) number(id string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.IndexFunc(t.open, func(c tbCall) bool { return c.id == id }); i >= 0 {
		return t.open[i].number
	}
	if len(t.open) >= maxCalls {
		t.open = slices.Delete(t.open, 0, 1)
	}
	t.last++
	t.open = append(t.open, tbCall{t.last, id})
	return t.last
}

// Answer implements Conversation. What the device answers is the command's result; an object
// with the key error alone says that it failed.
func (t *tbCalls) Answer(topic string, payload []byte) (Answer, bool) {
	text, ok := strings.CutPrefix(topic, tbResponse)
	number, err := strconv.Atoi(text)
	if !ok || err != nil {
		return Answer{}, false
	}
	t.mu.Lock()
	i, found := slices.BinarySearchFunc(t.open, number, func(c tbCall, n int) int { return c.number - n })
	a := Answer{OK: true}
	if found {
		a.ID = t.open[i].id
		t.open = slices.Delete(t.open, i, i+1)
	}
	t.mu.Unlock()
	if !found {
		return Answer{}, false
	}
	payload = trim(payload)
	switch {
	case len(payload) == 0:
	case !tooDeep(payload) && utf8.Valid(payload) && gjson.ValidBytes(payload):
		a.Value = payload
		if e := gjson.GetBytes(payload, "error"); e.Type == gjson.String && len(gjson.ParseBytes(payload).Map()) == 1 {
			a.OK, a.Error, a.Value = false, e.Str, nil
		}
	default:
		a.Value = wire.AppendString(nil, bytes.ToValidUTF8(payload, []byte("\uFFFD")))
	}
	return a, true
}
