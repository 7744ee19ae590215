package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"signalbox/internal/sim"
)

// mqttBroker is a target that speaks MQTT: a hub, or Mosquitto.
type mqttBroker interface {
	target
	// devices gives n devices that may log in, under names that no measurement has used.
	devices(ctx context.Context, n int) ([]sim.Credential, error)
	// outsider is what a subscriber to everybody's telemetry logs in with.
	outsider(ctx context.Context) (sim.Credential, error)
	// restart starts the broker on the same data and the same address; it has ended, or is ended in order.
	restart(ctx context.Context) error
	// crash kills the broker (SIGKILL).
	crash() error
}

// mqttHub is a hub whose MQTT listener is measured.
type mqttHub struct {
	*hub
	login *sim.Credential // of outsider
}

// startMQTTHub starts a hub without what bounds one device: what is looked for is the hub's own limit.
func (b *bencher) startMQTTHub(ctx context.Context, settings ...string) (*mqttHub, error) {
	h, err := b.newHub(append(settings, "SIGNALBOX_DEVICES_MESSAGES_PER_SECOND=1000000", "SIGNALBOX_DEVICES_BURST=65535")...)
	if err != nil {
		return nil, err
	}
	h.mqtt = "127.0.0.1:0"
	if err := h.start(ctx); err != nil {
		return nil, errors.Join(err, h.stop())
	}
	return &mqttHub{hub: h}, nil
}

func (h *mqttHub) address() string { return h.addrs.MQTT }

func (h *mqttHub) devices(ctx context.Context, n int) ([]sim.Credential, error) {
	return h.addDevices(ctx, n)
}

func (h *mqttHub) outsider(ctx context.Context) (sim.Credential, error) {
	if h.login == nil {
		secret, err := h.api.makeToken(ctx, "read")
		if err != nil {
			return sim.Credential{}, err
		}
		h.login = &sim.Credential{Name: tokenUser, Secret: secret}
	}
	return *h.login, nil
}

// tokenUser is the user name with which a token's secret is the password.
const tokenUser = "token"

func (h *mqttHub) restart(ctx context.Context) error {
	if err := h.child.stop(); err != nil {
		return err
	}
	h.mqtt = h.addrs.MQTT
	return h.start(ctx)
}

func (h *mqttHub) crash() error { return h.child.kill() }

// errNoMosquitto says that the peer is not installed.
var errNoMosquitto = errors.New("mosquitto is not installed")

// mosquitto is a Mosquitto in a process of its own, with a configuration of its own.
type mosquitto struct {
	*child
	program, dir, addr string
}

// mosquittoProgram finds Mosquitto and its version.
func mosquittoProgram(ctx context.Context) (program, version string, err error) {
	for _, name := range []string{"mosquitto", "/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"} {
		if program, err = exec.LookPath(name); err == nil {
			break
		}
	}
	if err != nil {
		return "", "", errNoMosquitto
	}
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	help, _ := exec.CommandContext(ctx, program, "-h").CombinedOutput() // its exit code for help has changed between versions
	line, _, _ := strings.Cut(strings.TrimSpace(string(help)), "\n")
	if line == "" {
		line = "mosquitto, version unknown"
	}
	return program, line, nil
}

// mosquittoSettings are Debian's (persistence) and what a broker on a port of its own needs.
func mosquittoSettings(dir, port string) []string {
	lines := []string{
		"listener " + port + " 127.0.0.1",
		"allow_anonymous true",
		"persistence true",
		"persistence_location " + dir + "/",
		"log_dest none",
	}
	if os.Geteuid() == 0 {
		lines = append(lines, "user root")
	}
	return lines
}

// startMosquitto starts Mosquitto with Debian's settings and those in more.
func (b *bencher) startMosquitto(ctx context.Context, more ...string) (*mosquitto, error) {
	program, _, err := mosquittoProgram(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(b.Dir, "signalbox-bench-mosquitto-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for mosquitto: %w", err)
	}
	m := &mosquitto{program: program, dir: dir}
	if m.addr, err = freeAddress(ctx); err == nil {
		_, port, _ := net.SplitHostPort(m.addr)
		text := strings.Join(append(mosquittoSettings(dir, port), more...), "\n") + "\n"
		err = os.WriteFile(m.config(), []byte(text), 0o600)
	}
	if err == nil {
		err = m.restart(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, m.stop())
	}
	return m, nil
}

// freeAddress is a port that was free a moment ago.
func freeAddress(ctx context.Context) (string, error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return ln.Addr().String(), ln.Close()
}

func (m *mosquitto) config() string                { return filepath.Join(m.dir, "mosquitto.conf") }
func (m *mosquitto) address() string               { return m.addr }
func (m *mosquitto) process() int                  { return m.pid() }
func (m *mosquitto) collect(context.Context) error { return nil } // it has no garbage
func (m *mosquitto) crash() error                  { return m.child.kill() }

func (m *mosquitto) devices(_ context.Context, n int) ([]sim.Credential, error) {
	list := bareCredentials(n)
	for i := range list { // as long as those of a hub
		list[i] = sim.Credential{Name: fmt.Sprintf("%s-%d", fleetPrefix(), i), Secret: strings.Repeat("x", 26)}
	}
	return list, nil
}

func (m *mosquitto) outsider(context.Context) (sim.Credential, error) {
	return sim.Credential{Name: tokenUser, Secret: strings.Repeat("x", 26)}, nil
}

func (m *mosquitto) restart(ctx context.Context) error {
	if m.child != nil {
		if err := m.child.stop(); err != nil {
			return err
		}
	}
	c, err := startChild(m.program, []string{"-c", m.config()}, nil, nil, nil)
	if err != nil {
		return err
	}
	m.child = c
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	var d net.Dialer
	for {
		if nc, err := d.DialContext(ctx, "tcp", m.addr); err == nil {
			return nc.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("mosquitto does not listen on %s: %w; it said: %s", m.addr, ctx.Err(), c.said)
		case <-c.done:
			return fmt.Errorf("mosquitto ended at its start (%w); it said: %s", c.err, c.said)
		case <-look.C:
		}
	}
}

func (m *mosquitto) stop() error {
	var err error
	if m.child != nil {
		err = m.child.stop()
	}
	return errors.Join(err, os.RemoveAll(m.dir))
}
