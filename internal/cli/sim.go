package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"signalbox"
	"signalbox/client"
	"signalbox/internal/app"
	"signalbox/internal/sim"
)

type simFlags struct {
	cfg                sim.Config
	protocol           string
	v1                 bool
	variant            uint8
	interval, duration string
	misbehave          []string
	remove             bool
}

const (
	// simReport is how often sim tells what its devices did.
	simReport = 5 * time.Second
	// simWarning is how often it says that devices are refused.
	simWarning = time.Minute
	// simTidy bounds adding the devices, and removing them at the end: both go on when the
	// command was interrupted, so that it is known what was made, and nothing stays.
	simTidy = 5 * time.Minute
)

func (c *command) simCommand() *cobra.Command {
	var f simFlags
	cmd := &cobra.Command{
		Use:   "sim",
		Short: "Connect simulated boxes, stations and sensors to a hub",
		Long: `Adds simulated devices to the hub and lets them live until it is interrupted: they log in through the
public protocol, report telemetry, move their servos on command and press their buttons. Devices of the
same names get new secrets. The devices stay in the hub's list unless --rm is given; it removes at the end
those that this command has added. A share of them can misbehave: ` + strings.Join(faultNames(), ", ") + `.

Over MQTT (--protocol mqtt or mqtt5) they use the topics signalbox/<name>/… and leave a will. --b1 adds original
temperature sensors: no name, no password, the text «25.8 °C» on Environ/Temperature (--b1-variant 2: «25°C»,
and what else that firmware does). With no other devices and --mqtt, these need no hub: any broker will do.`,
		Example: `  signalbox sim --boxes 10 --stations 5 --rm
  signalbox sim --boxes 100 --v1
  signalbox sim --boxes 10 --protocol mqtt --qos 1
  signalbox sim --b1 1 --interval 10s
  signalbox sim --boxes 20 --misbehave half-open=0.1 --misbehave storm=0.05`,
		Args: between(0, 0),
	}
	flags := cmd.Flags()
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if f.cfg.Sensors > 0 && !flags.Changed("boxes") && !flags.Changed("stations") {
			f.cfg.Boxes, f.cfg.Stations = 0, 0
		}
		return c.simulate(cmd.Context(), f)
	}
	flags.IntVar(&f.cfg.Boxes, "boxes", 10, "how many boxes")
	flags.IntVar(&f.cfg.Stations, "stations", 5, "how many stations")
	flags.StringVar(&f.protocol, "protocol", "", "what they speak: "+strings.Join(simProtocols(), ", ")+" (default v2)")
	flags.BoolVar(&f.v1, "v1", false, "all speak protocol version 1, as the original boards: --protocol v1")
	flags.Uint8Var(&f.cfg.QoS, "qos", 0, "the quality of service of readings over MQTT: 0, or 1, which are kept until they are acknowledged")
	flags.IntVar(&f.cfg.Sensors, "b1", 0, "how many original MQTT temperature sensors; alone, unless boxes or stations are asked for")
	flags.Uint8Var(&f.variant, "b1-variant", 1, "their firmware, 1 or 2")
	flags.Float64Var(&f.cfg.V1Share, "v1-share", 0, "the share of devices that speak version 1, 0 to 1")
	flags.StringVar(&f.cfg.Prefix, "prefix", "sim", "the beginning of the devices' names")
	flags.StringVar(&f.interval, "interval", "", "the time between the readings of a device (default "+app.FormatDuration(sim.DefaultInterval)+")")
	flags.StringVar(&f.duration, "duration", "", "stop after this time (default: when it is interrupted)")
	flags.StringArrayVar(&f.misbehave, "misbehave", nil, "a `FAULT=SHARE` of the devices, 0 to 1; may be repeated")
	flags.DurationVar(&f.cfg.Skew, "skew", 0, "how far off the clocks of devices with clock-skew are")
	flags.Uint64Var(&f.cfg.Seed, "seed", 1, "the same seed gives the same readings and faults")
	flags.IntVar(&f.cfg.Sources, "sources", 0, "over how many addresses 127.x.y.z the connections are spread (Linux, a hub on this machine)")
	flags.StringVar(&f.cfg.Addr, "devices", "", "host:port of the hub's device port (default: that of the hub on this machine)")
	flags.StringVar(&f.cfg.MQTTAddr, "mqtt", "", "host:port of the hub's MQTT port (default: that of the hub on this machine)")
	flags.BoolVar(&f.remove, "rm", false, "remove at the end the devices that were added, with their history")
	completeFlag(cmd, "protocol", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return simProtocols(), cobra.ShellCompDirectiveNoFileComp
	})
	completeFlag(cmd, "misbehave", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		faults := faultNames()
		for i := range faults {
			faults[i] += "="
		}
		return faults, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	})
	return cmd
}

// simProtocols are the words of --protocol.
func simProtocols() []string { return []string{"v2", "v1", "mqtt", "mqtt5"} }

// speak reads --protocol and what belongs to it.
func (f *simFlags) speak() error {
	if f.v1 {
		if f.protocol != "" && f.protocol != "v1" {
			return usagef("--v1 and --protocol %s contradict each other", f.protocol)
		}
		f.protocol = "v1"
	}
	switch f.protocol {
	case "", "v2":
	case "v1":
		f.cfg.Protocol = signalbox.ProtocolV1
	case "mqtt", "mqtt5":
		f.cfg.Protocol, f.cfg.MQTT5 = signalbox.ProtocolMQTT, f.protocol == "mqtt5"
	default:
		return oneOf("protocol", f.protocol, simProtocols())
	}
	switch {
	case f.cfg.QoS > 1:
		return usagef("--qos %d: allowed are 0 and 1", f.cfg.QoS)
	case f.cfg.QoS > 0 && f.cfg.Protocol != signalbox.ProtocolMQTT:
		return usagef("--qos %d goes with --protocol mqtt or mqtt5", f.cfg.QoS)
	}
	for flag, address := range map[string]string{"devices": f.cfg.Addr, "mqtt": f.cfg.MQTTAddr} {
		if address == "" {
			continue
		}
		if host, port, err := net.SplitHostPort(address); err != nil || host == "" || port == "" {
			return usagef("--%s %s: allowed is host:port, such as 127.0.0.1:%s", flag, address, map[string]string{"devices": "8765", "mqtt": "1883"}[flag])
		}
	}
	f.cfg.SensorVariant = sim.Variant(f.variant)
	if f.cfg.SensorVariant != sim.Plain && f.cfg.SensorVariant != sim.Repeating {
		return usagef("--b1-variant %d: allowed are 1 and 2", f.variant)
	}
	return nil
}

// alone says that the devices need no hub that knows them.
func (f *simFlags) alone() bool { return f.cfg.Boxes+f.cfg.Stations == 0 && f.cfg.MQTTAddr != "" }

// listeners says which of a hub's ports the devices use.
func (f *simFlags) listeners() (devices, mqtt bool) {
	named := f.cfg.Boxes+f.cfg.Stations > 0
	overMQTT := f.cfg.Protocol == signalbox.ProtocolMQTT
	return named && (!overMQTT || f.cfg.V1Share > 0), f.cfg.Sensors > 0 || named && overMQTT
}

func faultNames() []string {
	names := make([]string, 0, len(sim.Faults()))
	for _, fault := range sim.Faults() {
		names = append(names, string(fault))
	}
	return names
}

// complete turns flags into the simulator's configuration.
func (f *simFlags) complete() (life time.Duration, err error) {
	if err := f.speak(); err != nil {
		return 0, err
	}
	if f.interval != "" {
		if f.cfg.Interval, err = app.ParseDuration(f.interval); err != nil || f.cfg.Interval == 0 {
			return 0, usagef("--interval %s: allowed is a duration such as 500ms or 2s", f.interval)
		}
	}
	if f.duration != "" {
		if life, err = app.ParseDuration(f.duration); err != nil || life == 0 {
			return 0, usagef("--duration %s: allowed is a duration such as 30s or 1h", f.duration)
		}
	}
	f.cfg.Misbehave = make(map[sim.Fault]float64)
	for _, m := range f.misbehave {
		name, text, ok := strings.Cut(m, "=")
		share, err := strconv.ParseFloat(text, 64)
		if !ok || err != nil {
			return 0, usagef("--misbehave %s: FAULT=SHARE is needed, such as half-open=0.1", m)
		}
		if err := oneOf("misbehave", name, faultNames()); err != nil {
			return 0, err
		}
		if !(share >= 0 && share <= 1) { // written so that NaN is refused too
			return 0, usagef("--misbehave %s: the share is from 0 to 1", m)
		}
		f.cfg.Misbehave[sim.Fault(name)] = share
	}
	return life, nil
}

func (c *command) simulate(ctx context.Context, f simFlags) error {
	life, err := f.complete()
	if err != nil {
		return err
	}
	adder := &simAdder{command: c}
	if !f.alone() {
		r, err := c.reachHub(ctx, needHub)
		if err != nil {
			return err
		}
		defer func() { _ = r.close() }() // nothing is under way
		if err := c.findListeners(r, &f.cfg); err != nil {
			return err
		}
		adder.reach = r
	}
	if err := f.listen(ctx); err != nil {
		return err
	}
	f.cfg.Adder = adder
	f.cfg.Logger = slog.New(slog.NewTextHandler(c.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	fleet, err := sim.NewFleet(f.cfg)
	if err != nil {
		return usageError{err}
	}
	err = c.runFleet(ctx, fleet, life, f.where(), len(f.cfg.Misbehave) > 0)
	if f.remove {
		err = errors.Join(err, adder.removeMade(ctx))
	} else if n := len(adder.made); n > 0 {
		c.notef("Devices that stay: %d; «device rm --prefix %s-» removes them, --rm does it at the end.\n", n, f.cfg.Prefix)
	}
	return err
}

// findListeners fills in the ports of the hub on this machine that were not given.
func (c *command) findListeners(r *reach, cfg *sim.Config) error {
	if r.remote {
		return nil
	}
	dir, err := c.dataDir()
	if err != nil {
		return err
	}
	known := readAddresses(dir)
	cfg.Addr, cfg.MQTTAddr = cmp.Or(cfg.Addr, known["devices"]), cmp.Or(cfg.MQTTAddr, known["mqtt"])
	return nil
}

// listen makes sure that the ports that the devices use are there.
func (f *simFlags) listen(ctx context.Context) error {
	devices, mqtt := f.listeners()
	for _, port := range []struct {
		needed        bool
		address, hint string
		code, name    string
	}{
		{devices, f.cfg.Addr, "--devices host:8765", "no_device_port", "device port"},
		{mqtt, f.cfg.MQTTAddr, "--mqtt host:1883", "no_mqtt_port", "MQTT port"},
	} {
		switch {
		case !port.needed:
		case port.address == "":
			return usagef("the hub's %s is not known; give it with %s", port.name, port.hint)
		case !answers(ctx, port.address):
			return signalbox.Errorf(signalbox.KindUnavailable, port.code, "nothing answers on the %s %s", port.name, port.address)
		}
	}
	return nil
}

// where names the ports that the devices use.
func (f *simFlags) where() string {
	var list []string
	devices, mqtt := f.listeners()
	if devices {
		list = append(list, f.cfg.Addr)
	}
	if mqtt {
		list = append(list, f.cfg.MQTTAddr)
	}
	return strings.Join(list, " and ")
}

// runFleet lets the devices live until ctx ends or their time is over.
func (c *command) runFleet(ctx context.Context, fleet *sim.Fleet, life time.Duration, address string, misbehave bool) error {
	if life > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, life)
		defer cancel()
	}
	c.notef("%d devices on %s; Ctrl-C ends them.\n", fleet.Len(), address)
	reported := make(chan struct{})
	running, stop := context.WithCancel(ctx)
	go func() {
		defer close(reported)
		c.reportFleet(running, fleet, misbehave)
	}()
	err := fleet.Run(ctx)
	stop()
	<-reported
	if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return c.printFleet(fleet, true)
}

// reportFleet tells now and then what the devices did, on a terminal, and when the hub refuses
// devices that do what they should.
func (c *command) reportFleet(ctx context.Context, fleet *sim.Fleet, misbehave bool) {
	_, shown := terminal(c.Stdout)
	tick := time.NewTicker(simReport)
	defer tick.Stop()
	var told time.Time
	var refused int64
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s := fleet.Stats()
		if s.Connected < int64(fleet.Len()) && s.Refusals > refused && !misbehave && time.Since(told) >= simWarning {
			told = time.Now()
			c.notef("Devices are refused: %d of %d are connected. Another «sim» may have taken their names, which gives them new secrets; --prefix chooses others.\n", s.Connected, fleet.Len())
		}
		refused = s.Refusals
		if shown && c.printFleet(fleet, false) != nil {
			return
		}
	}
}

// printFleet shows what the fleet does, or has done when it is over.
func (c *command) printFleet(fleet *sim.Fleet, over bool) error {
	s := fleet.Stats()
	if c.flags.json {
		return c.printJSON(s)
	}
	who := fmt.Sprintf("connected %d of %d,", s.Connected, fleet.Len())
	if over {
		who = fmt.Sprintf("the fleet of %d has ended:", fleet.Len())
	}
	return c.printf("%s %s logins %d, readings %d (saved %d), commands %d, refusals %d, lost connections %d, faults played %d\n",
		time.Now().Format("15:04:05"), who, s.Logins, s.Telemetry, s.Saved, s.Commands, s.Refusals, s.Lost, s.Faults)
}

// simAdder adds simulated devices through the API and knows which it has made.
type simAdder struct {
	*command
	*reach
	made []string
}

// removeMade removes the devices that were made. It goes on when ctx has ended.
func (a *simAdder) removeMade(ctx context.Context) error {
	if len(a.made) == 0 {
		a.notef("No device was added, so none was removed.\n")
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), simTidy)
	defer cancel()
	removed, err := a.removeDevices(ctx, a.reach, a.made)
	a.notef("Devices removed: %d\n", removed)
	return err
}

// AddDevices implements sim.Adder.
func (a *simAdder) AddDevices(ctx context.Context, list sim.NewDevices) ([]sim.Credential, error) {
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	for _, d := range list {
		if err := encoder.Encode(map[string]string{"name": d.Name, "type": d.Type}); err != nil {
			return nil, fmt.Errorf("write the list of devices: %w", err)
		}
	}
	adding, cancel := context.WithTimeout(context.WithoutCancel(ctx), simTidy)
	defer cancel()
	report, err := a.ImportDevices(adding, client.NDJSON, &body)
	if err != nil {
		return nil, err
	}
	if len(report.Entries) != len(list) {
		return nil, fmt.Errorf("the hub reported on %d devices instead of %d", len(report.Entries), len(list))
	}
	credentials := make([]sim.Credential, len(list))
	for i, e := range report.Entries {
		switch e.Outcome {
		case "created":
			a.made = append(a.made, e.Name)
		case "kept":
			made, err := a.RotateSecret(ctx, e.Name, "")
			if err != nil {
				return nil, err
			}
			e.Secret = made.Secret
		default:
			return nil, signalbox.Errorf(signalbox.KindInvalid, "refused", "the hub refused the device %s: %s", e.Name, e.Message)
		}
		credentials[i] = sim.Credential{Name: e.Name, Secret: e.Secret}
	}
	return credentials, nil
}
