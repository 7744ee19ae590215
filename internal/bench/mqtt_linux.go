package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"signalbox/internal/sim"
)

// The parts of the measurement «mqtt», which are its variants.
const (
	mqttConnections = "connections"
	mqttQoS0        = "qos0"
	mqttQoS1        = "qos1"
	mqttSubscriber  = "subscriber"
	mqttSurvive     = "survive"
)

// unacked is how many QoS 1 messages of one publisher are under way.
const unacked = 16

// contender is a broker of one part, with the row that it fills.
type contender struct {
	row     string
	peer    bool // it is not ours
	start   func(ctx context.Context) (mqttBroker, error)
	measure func(ctx context.Context, t mqttBroker) ([]Value, error)
}

// mqttRun is a measurement of MQTT under way.
type mqttRun struct {
	*bencher
	program string // of Mosquitto; empty: not installed
	// delivered is what Mosquitto delivered to a subscriber without losing, per second.
	delivered float64
}

// runMQTT measures the hub's broker beside Mosquitto, in turn.
func runMQTT(ctx context.Context, b *bencher) error {
	if b.URL != "" {
		return errors.New("mqtt starts, restarts and kills the brokers that it compares: leave out the URL")
	}
	m := &mqttRun{bencher: b}
	program, version, err := mosquittoProgram(ctx)
	switch {
	case errors.Is(err, errNoMosquitto):
		b.report.note("Mosquitto is not installed (apt-get install mosquitto): only the hub was measured, and nothing was compared.")
	case err != nil:
		return err
	default:
		m.program = program
		b.report.note("Beside it %s with a configuration of its own: %s; otherwise its defaults, among them max_inflight_messages 20, "+
			"max_queued_messages 1000, autosave_interval 1800. The hub has its defaults but for the limit of messages per second of a device, which is lifted; "+
			"it authenticates its devices, Mosquitto takes everybody. All clients speak 3.1.1.", version, strings.Join(mosquittoSettings("DIR", "PORT"), ", "))
	}
	for _, part := range b.Variants {
		contenders, err := m.contenders(ctx, part)
		if err != nil {
			return err
		}
		if err := m.compare(ctx, part, contenders); err != nil {
			return err
		}
	}
	return nil
}

// compare lets the contenders of a part run in turn.
func (m *mqttRun) compare(ctx context.Context, part string, contenders []contender) error {
	if m.program == "" {
		contenders = slices.DeleteFunc(contenders, func(c contender) bool { return c.peer })
	}
	count := m.Runs
	if part == mqttSurvive {
		count = 1 // it has rounds
	}
	runs := map[string][][]Value{}
	for run := range count {
		for _, c := range contenders {
			m.Logger.Info("measuring MQTT", "part", part, "broker", c.row, "run", run+1)
			values, err := m.once(ctx, c)
			if err != nil {
				return fmt.Errorf("mqtt, %s, %s: %w", part, c.row, err)
			}
			runs[c.row] = append(runs[c.row], values)
		}
	}
	for _, c := range contenders {
		m.report.add(c.row, runs[c.row]...)
	}
	m.conclude(part)
	return nil
}

// once measures a fresh broker.
func (m *mqttRun) once(ctx context.Context, c contender) (values []Value, err error) {
	t, err := c.start(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, t.stop()) }()
	return c.measure(ctx, t)
}

func (m *mqttRun) hub(ctx context.Context) (mqttBroker, error) { return m.startMQTTHub(ctx) }

// mosquitto gives what starts one with settings besides Debian's.
func (m *mqttRun) mosquitto(more ...string) func(ctx context.Context) (mqttBroker, error) {
	return func(ctx context.Context) (mqttBroker, error) { return m.startMosquitto(ctx, more...) }
}

// raised are the settings with which Mosquitto drops nothing for a slow subscriber, raisedHub the hub's.
func raised() []string { return []string{"max_queued_messages 0", "max_inflight_messages 0"} }

func raisedHub() []string {
	return []string{
		"SIGNALBOX_MQTT_LIMITS_INFLIGHT=4096", "SIGNALBOX_MQTT_LIMITS_QUEUE_MESSAGES=100000000", "SIGNALBOX_MQTT_LIMITS_QUEUE_BYTES=4GiB", "SIGNALBOX_MQTT_LIMITS_QUEUES_MEMORY=16GiB",
	}
}

// The names of rows; of others the part is in front.
const (
	rowHub, rowPeer     = "hub", "mosquitto"
	rowHubSub           = "hub, subscribed"
	rowPeerSub          = "mosquitto, subscribed"
	rowPeerRaised       = "mosquitto, raised"
	rowHubRaised        = "hub, raised"
	rowHubPaced         = "hub, paced"
	rowConnectionsPlain = "connections "
)

// contenders are the brokers of a part.
func (m *mqttRun) contenders(_ context.Context, part string) ([]contender, error) {
	both := func(measure func(ctx context.Context, t mqttBroker) ([]Value, error)) []contender {
		return []contender{
			{row: part + " " + rowHub, start: m.hub, measure: measure},
			{row: part + " " + rowPeer, peer: true, start: m.mosquitto(), measure: measure},
		}
	}
	switch part {
	case mqttConnections:
		n, err := m.howMany(manyConnections)
		if err != nil {
			return nil, err
		}
		measure := func(subscribe bool) func(ctx context.Context, t mqttBroker) ([]Value, error) {
			return func(ctx context.Context, t mqttBroker) ([]Value, error) {
				return m.mqttConnections(ctx, t, n, subscribe)
			}
		}
		// Silent devices' messages leave the memory, sooner than after 10 minutes, so that it can be seen.
		hub := func(ctx context.Context) (mqttBroker, error) {
			return m.startMQTTHub(ctx, "SIGNALBOX_HISTORY_COLD="+m.idleAfter().String())
		}
		return []contender{
			{row: rowConnectionsPlain + rowHub, start: hub, measure: measure(false)},
			{row: rowConnectionsPlain + rowPeer, peer: true, start: m.mosquitto(), measure: measure(false)},
			{row: rowConnectionsPlain + rowHubSub, start: hub, measure: measure(true)},
			{row: rowConnectionsPlain + rowPeerSub, peer: true, start: m.mosquitto(), measure: measure(true)},
		}, nil
	case mqttQoS0, mqttQoS1:
		load := sim.Load{Duration: m.Duration, Bunch: bunch, Window: 1.5, Unacked: unacked}
		return both(func(ctx context.Context, t mqttBroker) ([]Value, error) {
			return m.mqttPublish(ctx, t, m.publishers(), part == mqttQoS1, load)
		}), nil
	case mqttSubscriber:
		return m.deliverers(part), nil
	default:
		return both(m.mqttSurvive), nil
	}
}

// pace is what is published per second where Mosquitto has given no rate.
const pace = 50_000

// deliverers are the contenders of the part subscriber.
func (m *mqttRun) deliverers(part string) []contender {
	flood := func(ctx context.Context, t mqttBroker) ([]Value, error) {
		return m.mqttDeliver(ctx, t, m.Rate, m.patience())
	}
	whole := func(ctx context.Context, t mqttBroker) ([]Value, error) {
		return m.mqttDeliver(ctx, t, m.Rate, wholePatience)
	}
	remember := func(ctx context.Context, t mqttBroker) ([]Value, error) {
		values, err := whole(ctx, t)
		if err == nil {
			m.delivered = values[0].Value
		}
		return values, err
	}
	paced := func(ctx context.Context, t mqttBroker) ([]Value, error) {
		return m.mqttDeliver(ctx, t, cmp.Or(m.delivered, pace), m.patience())
	}
	hub := func(ctx context.Context) (mqttBroker, error) { return m.startMQTTHub(ctx, raisedHub()...) }
	return []contender{
		{row: part + " " + rowPeer, peer: true, start: m.mosquitto(), measure: flood},
		{row: part + " " + rowPeerRaised, peer: true, start: m.mosquitto(raised()...), measure: remember},
		{row: part + " " + rowHub, start: m.hub, measure: flood},
		{row: part + " " + rowHubRaised, start: hub, measure: whole},
		{row: part + " " + rowHubPaced, start: m.hub, measure: paced},
	}
}

// publishers is how many publish in the parts but connections.
func (m *mqttRun) publishers() int {
	if m.Connections > 0 {
		return min(m.Connections, loadDevices)
	}
	return loadDevices
}

// conclude notes what a part has shown.
func (m *mqttRun) conclude(part string) {
	r := m.report
	ratio := func(row, peer, value string) {
		if have := r.get(part+" "+peer, value); have > 0 {
			r.note("%s: %s of %s is %.2f times that of %s.", part, value, row, r.get(part+" "+row, value)/have, peer)
		}
	}
	switch part {
	case mqttConnections:
		for _, rows := range [][2]string{{rowHub, rowPeer}, {rowHubSub, rowPeerSub}} {
			r.goal(rowConnectionsPlain+rows[0]+": made per second", r.get(rowConnectionsPlain+rows[0], "rate"), 20_000, true, "/s")
			ratio(rows[0], rows[1], "rate")
			ratio(rows[0], rows[1], "connection")
		}
		r.goal("connections: memory of an idle one", r.get(rowConnectionsPlain+rowHub, "connection"), 1500, false, "B")
		r.goal("connections: memory of one with a QoS 1 subscription", r.get(rowConnectionsPlain+rowHubSub, "connection"), 2500, false, "B")
		r.note("connections: memory is resident memory, of the hub after a garbage collection, from a broker to which a few clients came first (the hub: restarted with all its "+
			"devices) to the broker to which all are connected. Idle CPU is that of %v in which nobody sends anything, as a share of one core.", m.idleTime())
	case mqttQoS0:
		r.goal("qos0: stored per second", r.get("qos0 hub", "rate"), 400_000, true, "/s")
		ratio(rowHub, rowPeer, "rate")
		r.note("qos0: %d publishers, 200 bytes of JSON, %d packets in one write; a PINGREQ among them now and then tells how far the broker has come. The hub's time ends when its count of "+
			"messages on disk is that of the messages sent, and all messages of %d devices were read back and compared; Mosquitto, without a subscriber, drops them.", m.publishers(), bunch, min(sampledDevices, m.publishers()))
	case mqttQoS1:
		r.goal("qos1: acknowledged per second", r.get("qos1 hub", "rate"), 100_000, true, "/s")
		ratio(rowHub, rowPeer, "rate")
		r.note("qos1: %d publishers with at most %d messages each without PUBACK; they publish again when half of these are free, in one write. p50 and p99 are from a write to the PUBACK of its last "+
			"message. The hub acknowledges after the commit; all messages of some devices were read back. Mosquitto stores nothing.", m.publishers(), unacked)
	case mqttSubscriber:
		r.goal("subscriber: messages lost by the hub, raised", r.get("subscriber "+rowHubRaised, "lost"), 0, false, "")
		r.goal("subscriber: messages lost by the hub at Mosquitto's rate", r.get("subscriber "+rowHubPaced, "lost"), 0, false, "")
		for peer, row := range map[string]string{rowPeer: rowHub, rowPeerRaised: rowHubRaised} {
			if have := r.get("subscriber "+peer, "delivered"); have > 0 {
				r.goal("subscriber: delivered by "+row+", against "+peer, r.get("subscriber "+row, "delivered")/have, 1, true, "times")
			}
		}
		r.note("subscriber: %d publishers as in qos1, one subscriber to %s with QoS 1 from outside, which has its processor in common with the load; delivered counts different messages, from the first "+
			"to the last. Publishers do not wait for the subscriber, so that queues fill where they publish faster than it reads. raised: no bound that matters on them (Mosquitto: %s; the hub: %s). paced: the defaults, at the rate that Mosquitto, raised, "+
			"delivered in the same run (without Mosquitto at %d/s).", m.publishers(), everybody, strings.Join(raised(), ", "), strings.Join(raisedHub(), " "), pace)
	case mqttSurvive:
		r.goal("survive: acknowledged messages lost by the hub", r.get("survive hub", "lost"), 0, false, "")
		r.note("survive: a subscriber with a persistent session is away; %d messages with QoS 1 are published, the broker is killed (kill -9) when the last PUBACK is there, started again, and the subscriber returns. "+
			"twice: messages of the round before, which the subscriber acknowledged too shortly before the kill.", surviveMessages)
	}
}
