package conformance_test

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/paho"

	"signalbox/internal/wire/packet"
)

// TestPahoGo311 goes through the features with paho.mqtt.golang.
func TestPahoGo311(t *testing.T) {
	t.Parallel()
	hub := theHub(t)
	for transport, address := range map[string]string{"tcp": "tcp://" + hub.tcp, "websocket": hub.ws} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			root := unique()
			c, messages := paho311(t, address, func(*mqtt.ClientOptions) {})
			for qos := range byte(3) {
				topic := fmt.Sprint(root, "/", qos)
				done(t, c.Subscribe(topic, qos, nil))
				for sent := range byte(3) {
					done(t, c.Publish(topic, sent, false, fmt.Sprint("QoS ", sent)))
					expect(t, messages, topic, fmt.Sprint("QoS ", sent), min(qos, sent))
				}
			}
			large := strings.Repeat("0123456789", 6000)
			done(t, c.Publish(root+"/2", 2, false, large))
			expect(t, messages, root+"/2", large, 2)

			done(t, c.Publish(root+"/kept", 1, true, "kept"))
			done(t, c.Subscribe(root+"/kept", 1, nil))
			if m := expect(t, messages, root+"/kept", "kept", 1); !m.Retained() {
				t.Error("the retained message comes without its flag")
			}

			id := unique()
			lasting := func(o *mqtt.ClientOptions) { o.SetClientID(id).SetCleanSession(false) }
			away, _ := paho311(t, address, lasting)
			done(t, away.Subscribe(root+"/away", 2, nil))
			away.Disconnect(250)
			for i := range 30 {
				done(t, c.Publish(root+"/away", byte(1+i%2), false, fmt.Sprint(i)))
			}
			back, queued := paho311(t, address, lasting)
			for i := range 30 {
				expect(t, queued, root+"/away", fmt.Sprint(i), byte(1+i%2))
			}
			back.Disconnect(250)

			name, secret := hub.addDevice(t)
			device, _ := paho311(t, address, func(o *mqtt.ClientOptions) { o.SetUsername(name).SetPassword(secret) })
			done(t, device.Publish("signalbox/"+name+"/telemetry", 1, false, `{"temp":20}`))
			device.Disconnect(250)
			c.Disconnect(250)
		})
	}
}

func paho311(t *testing.T, address string, change func(*mqtt.ClientOptions)) (mqtt.Client, <-chan mqtt.Message) {
	t.Helper()
	hub, messages := theHub(t), make(chan mqtt.Message, 1000)
	o := mqtt.NewClientOptions().AddBroker(address).SetProtocolVersion(4).SetClientID(unique()).SetUsername(hub.user).SetPassword(hub.password).
		SetConnectTimeout(patience).SetAutoReconnect(false).SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { messages <- m })
	change(o)
	c := mqtt.NewClient(o)
	done(t, c.Connect())
	t.Cleanup(func() { c.Disconnect(0) })
	return c, messages
}

func done(t *testing.T, token mqtt.Token) {
	t.Helper()
	if !token.WaitTimeout(patience) {
		t.Fatal("it was not answered in time")
	}
	if err := token.Error(); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, messages <-chan mqtt.Message, topic, payload string, qos byte) mqtt.Message {
	t.Helper()
	select {
	case m := <-messages:
		if m.Topic() != topic || string(m.Payload()) != payload || m.Qos() != qos {
			t.Fatalf("got %.80q on %s with QoS %d, want %.80q on %s with QoS %d", m.Payload(), m.Topic(), m.Qos(), payload, topic, qos)
		}
		return m
	case <-time.After(patience):
		t.Fatalf("%.80q on %s did not come", payload, topic)
		return nil
	}
}

// TestPahoGo5 goes through the features with paho.golang, which speaks 5.0.
func TestPahoGo5(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	root := unique()
	c, messages := paho5(ctx, t, unique(), false)
	other, requests := paho5(ctx, t, unique(), false)
	subscribe5(ctx, t, c, paho.SubscribeOptions{Topic: root + "/#", QoS: 2})
	for qos := range byte(3) {
		publish5(ctx, t, other, &paho.Publish{Topic: root + "/x", QoS: qos, Payload: fmt.Append(nil, qos)})
		if m := receive5(ctx, t, messages); m.QoS != qos || string(m.Payload) != fmt.Sprint(qos) {
			t.Errorf("got %q with QoS %d", m.Payload, m.QoS)
		}
	}
	// Request and response.
	ask := unique()
	subscribe5(ctx, t, other, paho.SubscribeOptions{Topic: ask, QoS: 1})
	publish5(ctx, t, c, &paho.Publish{Topic: ask, QoS: 1, Payload: []byte("?"), Properties: &paho.PublishProperties{
		ResponseTopic: root + "/answer", CorrelationData: []byte{0, 9}, User: paho.UserProperties{{Key: "b", Value: "1"}, {Key: "a", Value: "2"}, {Key: "b", Value: "3"}},
	}})
	q := receive5(ctx, t, requests)
	if !slices.Equal(q.Properties.User, paho.UserProperties{{Key: "b", Value: "1"}, {Key: "a", Value: "2"}, {Key: "b", Value: "3"}}) {
		t.Errorf("the user properties are %v", q.Properties.User)
	}
	publish5(ctx, t, other, &paho.Publish{Topic: q.Properties.ResponseTopic, QoS: 1, Payload: []byte("!"), Properties: &paho.PublishProperties{CorrelationData: q.Properties.CorrelationData}})
	if a := receive5(ctx, t, messages); string(a.Properties.CorrelationData) != "\x00\x09" {
		t.Errorf("the correlation data are % x", a.Properties.CorrelationData)
	}
	large := []byte(strings.Repeat("0123456789", 6000))
	publish5(ctx, t, other, &paho.Publish{Topic: root + "/large", QoS: 2, Payload: large})
	if m := receive5(ctx, t, messages); string(m.Payload) != string(large) {
		t.Errorf("a large message came with %d bytes", len(m.Payload))
	}
	// A session that outlives its connection.
	id := unique()
	away, _ := paho5(ctx, t, id, true)
	subscribe5(ctx, t, away, paho.SubscribeOptions{Topic: root + "-away", QoS: 1})
	if err := away.Disconnect(&paho.Disconnect{}); err != nil {
		t.Error(err)
	}
	for i := range 30 {
		publish5(ctx, t, c, &paho.Publish{Topic: root + "-away", QoS: 1, Payload: fmt.Append(nil, i)})
	}
	_, queued := paho5(ctx, t, id, true)
	for i := range 30 {
		if m := receive5(ctx, t, queued); string(m.Payload) != fmt.Sprint(i) {
			t.Fatalf("queued message %q came where %d was due", m.Payload, i)
		}
	}
}

func paho5(ctx context.Context, t *testing.T, id string, lasting bool) (*paho.Client, <-chan *paho.Publish) {
	t.Helper()
	hub, messages := theHub(t), make(chan *paho.Publish, 1000)
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", hub.tcp)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	c := paho.NewClient(paho.ClientConfig{Conn: conn, OnPublishReceived: []func(paho.PublishReceived) (bool, error){
		func(r paho.PublishReceived) (bool, error) { messages <- r.Packet; return true, nil },
	}})
	connect := &paho.Connect{ClientID: id, KeepAlive: 30, CleanStart: !lasting, UsernameFlag: true, Username: hub.user, PasswordFlag: true, Password: []byte(hub.password)}
	if lasting {
		expiry := uint32(600)
		connect.Properties = &paho.ConnectProperties{SessionExpiryInterval: &expiry}
	}
	if _, err := c.Connect(ctx, connect); err != nil {
		t.Fatal(err)
	}
	return c, messages
}

func subscribe5(ctx context.Context, t *testing.T, c *paho.Client, o paho.SubscribeOptions) {
	t.Helper()
	ack, err := c.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{o}})
	if err != nil || ack.Reasons[0] != o.QoS {
		t.Fatalf("subscribe to %s: %v, %v", o.Topic, ack, err)
	}
}

func publish5(ctx context.Context, t *testing.T, c *paho.Client, p *paho.Publish) {
	t.Helper()
	if _, err := c.Publish(ctx, p); err != nil {
		t.Fatalf("publish to %s: %v", p.Topic, err)
	}
}

func receive5(ctx context.Context, t *testing.T, messages <-chan *paho.Publish) *paho.Publish {
	t.Helper()
	select {
	case m := <-messages:
		return m
	case <-ctx.Done():
		t.Fatal("a message did not come")
		return nil
	}
}

// TestAutopaho lets a group share a subscription, over WebSocket, and takes over a connection,
// after which the client comes back by itself.
func TestAutopaho(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	hub, topic := theHub(t), unique()
	messages := make(chan string, 1000)
	ups := make(chan struct{}, 16)
	var members []*autopaho.ConnectionManager
	for i := range 2 {
		address, err := url.Parse([]string{"mqtt://" + hub.tcp, hub.ws}[i])
		if err != nil {
			t.Fatal(err)
		}
		cm, err := autopaho.NewConnection(ctx, autopaho.ClientConfig{
			ServerUrls: []*url.URL{address}, KeepAlive: 30, CleanStartOnInitialConnection: true, SessionExpiryInterval: 60,
			ConnectUsername: hub.user, ConnectPassword: []byte(hub.password),
			ReconnectBackoff: func(int) time.Duration { return 50 * time.Millisecond },
			OnConnectionUp: func(cm *autopaho.ConnectionManager, _ *paho.Connack) {
				if _, err := cm.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "$share/auto/" + topic, QoS: 1}}}); err == nil {
					ups <- struct{}{}
				}
			},
			ClientConfig: paho.ClientConfig{ClientID: fmt.Sprint(topic, i), OnPublishReceived: []func(paho.PublishReceived) (bool, error){
				func(r paho.PublishReceived) (bool, error) { messages <- string(r.Packet.Payload); return true, nil },
			}},
		})
		if err != nil {
			t.Fatal(err)
		}
		members = append(members, cm)
	}
	up := func() {
		t.Helper()
		select {
		case <-ups:
		case <-ctx.Done():
			t.Fatal("a client did not come up")
		}
	}
	up()
	up()
	share := func() {
		t.Helper()
		seen := map[string]bool{}
		for i := range 30 {
			if _, err := members[i%2].Publish(ctx, &paho.Publish{Topic: topic, QoS: 1, Payload: fmt.Append(nil, i)}); err != nil {
				t.Fatal(err)
			}
		}
		for range 30 {
			select {
			case m := <-messages:
				seen[m] = true
			case <-ctx.Done():
				t.Fatalf("%d of 30 messages came", len(seen))
			}
		}
		if len(seen) != 30 {
			t.Errorf("%d of 30 messages came", len(seen))
		}
	}
	share()
	// It throws the client out; who is back before the intruder is answered throws that one out.
	intruder := dial(t, packet.V5)
	if ack := intruder.hello(named(topic+"0"), lasting); ack.Reason != packet.Success && ack.Reason != packet.ServerUnavailable {
		t.Fatalf("the CONNECT of another was answered with reason %v", ack.Reason)
	}
	intruder.drop()
	up() // the client has come back
	share()
	for _, cm := range members {
		if err := cm.Disconnect(ctx); err != nil {
			t.Error(err)
		}
	}
}
