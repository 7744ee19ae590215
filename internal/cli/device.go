package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"signalbox"
	"signalbox/client"
	"signalbox/internal/app"
)

func (c *command) deviceCommand() *cobra.Command {
	return parent("device", "Add, list, change and remove devices",
		"A device is whatever logs in with a name and a secret: a box, a station, a sensor, an actuator.",
		`  signalbox device add esp01 --type box
  signalbox device list
  signalbox device show esp01`,
		c.deviceAddCommand(), c.deviceListCommand(), c.deviceShowCommand(), c.deviceRotateCommand(),
		c.deviceSwitchCommand("disable", "Refuse a device's logins, and end its connection", true),
		c.deviceSwitchCommand("enable", "Let a disabled device log in again", false),
		c.deviceApproveCommand(),
		c.deviceRemoveCommand())
}

func (c *command) deviceAddCommand() *cobra.Command {
	var kind, from string
	var passwordStdin bool
	cmd := &cobra.Command{
		Use:   "add NAME | --from FILE",
		Short: "Add a device, or thousands from a file",
		Long: `Adds a device and prints its secret, once, with the frame a board sends to log in.

With --from it adds all devices of a file, or of standard input («-»), in one go: CSV with a line of
column names (name, type, password), a JSON list or a JSON object a line with the same keys. Devices
without a password get a generated secret, which is in the report. A device that exists already is
kept as it is. If an entry had to be refused the exit code is 1; the others are added all the same.`,
		Example: `  signalbox device add esp01 --type box
  echo 1234 | signalbox device add esp01 --type box --password-stdin
  signalbox device add --from devices.csv --json > secrets.json`,
		Args: between(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case from != "" && (len(args) > 0 || kind != "" || passwordStdin):
				return usagef("--from stands alone: names, types and passwords are in the file")
			case from != "":
				return c.importFrom(cmd.Context(), from, true)
			case len(args) == 0:
				return usagef("a name is missing: %s", cmd.UseLine())
			}
			secret := ""
			if passwordStdin {
				var err error
				if secret, err = c.readSecretLine(); err != nil {
					return err
				}
			}
			return c.addDevice(cmd.Context(), args[0], kind, secret)
		},
	}
	cmd.Flags().StringVar(&kind, "type", "", "a free word such as box, station, sensor or actuator (default device)")
	cmd.Flags().StringVar(&from, "from", "", "a file of devices (CSV, JSON or NDJSON), «-» for standard input")
	cmd.Flags().BoolVar(&passwordStdin, "password-stdin", false, "take the device's password from standard input instead of making one")
	_ = cmd.MarkFlagFilename("from", "csv", "json", "ndjson")
	completeFlag(cmd, "type", c.completeType)
	return cmd
}

func (c *command) addDevice(ctx context.Context, name, kind, secret string) error {
	return c.withPlace(ctx, func(r *reach) error {
		made, err := r.AddDevice(ctx, client.NewDevice{Name: name, Type: kind, Secret: secret})
		if err != nil {
			return err
		}
		return c.printSecret(ctx, r, "Added", made, secret)
	})
}

// printSecret shows what a board needs to log in.
func (c *command) printSecret(ctx context.Context, r *reach, done string, answer client.Made, chosen string) error {
	secret := answer.Secret
	if secret == "" {
		secret = chosen
	}
	frame, err := authFrame(answer.Device.Name, secret)
	if err != nil {
		return err
	}
	address := c.portAddress(ctx, r, "devices", "ws://", func(cfg *app.Config) string { return cfg.Devices.Listen })
	broker := c.portAddress(ctx, r, "mqtt", "mqtt://", func(cfg *app.Config) string { return cfg.MQTT.Listen })
	if c.flags.json {
		return c.printJSON(struct {
			Name    string `json:"name"`
			Type    string `json:"type"`
			Secret  string `json:"secret,omitempty"` // only a generated one
			Frame   string `json:"frame"`
			Address string `json:"address,omitempty"`
			MQTT    string `json:"mqtt,omitempty"`
		}{answer.Device.Name, answer.Device.Type, answer.Secret, frame, address, broker})
	}
	p := c.paint()
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s (%s).\n", done, p.bold(clean(answer.Device.Name)), clean(answer.Device.Type))
	if answer.Secret != "" {
		fmt.Fprintf(&b, "  Secret   %s  (shown this once)\n", p.bold(secret))
	}
	if address != "" {
		fmt.Fprintf(&b, "  Connect  %s\n", p.cyan(address))
	}
	fmt.Fprintf(&b, "  Send     %s\n", frame)
	if broker != "" {
		fmt.Fprintf(&b, "  or MQTT  %s  name and secret are user name and password; topics signalbox/%s/telemetry and …/command\n", p.cyan(broker), clean(answer.Device.Name))
	}
	return c.printf("%s", b.String())
}

// protocolText names a device protocol for people; the API has numbers.
func protocolText(p signalbox.Protocol) string {
	switch p {
	case signalbox.ProtocolV1:
		return "WebSocket, version 1"
	case signalbox.ProtocolV2:
		return "WebSocket, version 2"
	case signalbox.ProtocolMQTT:
		return "MQTT"
	case signalbox.ProtocolMapped:
		return "MQTT, mapped topics"
	default:
		return strconv.Itoa(int(p))
	}
}

// authFrame is the first frame of a device (protocol version 1; version 2 adds "v":2).
func authFrame(name, secret string) (string, error) {
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(struct {
		Type     string `json:"type"`
		Name     string `json:"name"`
		Password string `json:"password"`
	}{"auth", name, secret})
	return strings.TrimSpace(b.String()), err
}

// portAddress gives the address of a port for boards as well as it can be known from here: of a
// running hub from addresses.json, of none from its configuration.
func (c *command) portAddress(ctx context.Context, r *reach, key, scheme string, listen func(*app.Config) string) string {
	if r.remote {
		return "" // a remote hub's ports are not known
	}
	loaded, err := c.loadConfig(nil)
	if err != nil {
		return ""
	}
	if !r.alive {
		text := listen(&loaded.Config)
		host, port, err := net.SplitHostPort(text)
		if err != nil || port == "0" {
			return ""
		}
		return scheme + net.JoinHostPort(cmp.Or(outwardHost(text), host, "127.0.0.1"), port)
	}
	running := readAddresses(loaded.Config.Data)[key]
	host, port, err := net.SplitHostPort(running)
	if err != nil {
		return ""
	}
	// A hub on all addresses writes down that of this machine; boards need the outward one.
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsLoopback() {
		if outward := outwardHost(":" + port); outward != "" && answers(ctx, net.JoinHostPort(outward, port)) {
			host = outward
		}
	}
	return scheme + net.JoinHostPort(host, port)
}

// answers says whether somebody listens on address, on this machine.
func answers(ctx context.Context, address string) bool {
	dialer := net.Dialer{Timeout: completionTime}
	probe, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return false
	}
	_ = probe.Close() // it carried nothing
	return true
}

// readAddresses gives the addresses a running hub wrote down, nil without any.
func readAddresses(dir string) map[string]string {
	data, err := os.ReadFile(filepath.Join(dir, "addresses.json"))
	var all map[string]string
	if err != nil || json.Unmarshal(data, &all) != nil {
		return nil
	}
	return all
}

func (c *command) deviceListCommand() *cobra.Command {
	var kinds []string
	var prefix string
	var online, offline, pending bool
	var limit int
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List devices",
		Example: `  signalbox device list
  signalbox device list --type box --online
  signalbox device list --pending
  signalbox device list --json | jq -r '.[].name'`,
		Args: between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			query := client.DeviceQuery{Types: kinds, Prefix: prefix, Limit: 1000}
			switch {
			case online && offline:
				return usagef("--online and --offline exclude each other")
			case limit < 0:
				return usagef("--limit %d is negative; 0 means all", limit)
			case online:
				query.Presence = signalbox.Online
			case offline:
				query.Presence = signalbox.Offline
			}
			if pending {
				query.Pending = &pending
			}
			if limit > 0 {
				query.Limit = min(limit, query.Limit)
			}
			return c.withHub(cmd.Context(), func(r *reach) error {
				list := some(r.AllDevices(cmd.Context(), query), limit)
				if pending {
					return c.listPending(list)
				}
				return c.listDevices(list)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&kinds, "type", nil, "only devices of this type; may be repeated")
	flags.StringVar(&prefix, "prefix", "", "only devices whose name begins so")
	flags.BoolVar(&online, "online", false, "only devices that are online")
	flags.BoolVar(&offline, "offline", false, "only devices that are away")
	flags.BoolVar(&pending, "pending", false, "only devices that were seen without being known, and wait for approval")
	flags.IntVar(&limit, "limit", 0, "how many at most; 0 means all")
	completeFlag(cmd, "type", inList(c.types))
	completeFlag(cmd, "prefix", c.completeDevices)
	return cmd
}

func (c *command) listDevices(devices iter.Seq2[signalbox.Device, error]) error {
	p, now := c.paint(), time.Now()
	t := newTable("NAME", "TYPE", "PRESENCE", "SINCE", "STATUS", "LAST SEEN")
	return printList(c, devices, t, func(d signalbox.Device) {
		style := map[int]cellStyle{2: p.presence(d.Presence)}
		shown := string(d.Presence)
		switch {
		case d.Pending:
			shown, style[2] = "pending", p.yellow
		case d.Disabled:
			shown, style[2] = "disabled", p.yellow
		}
		t.add(style, d.Name, d.Type, shown, sinceText(d.Since, now), d.Status, sinceText(d.LastSeen, now))
	})
}

// listPending lists devices that wait for approval, with what was seen of them.
func (c *command) listPending(devices iter.Seq2[signalbox.Device, error]) error {
	now := time.Now()
	t := newTable("NAME", "TYPE", "SEEN", "DROPPED", "TOPIC", "FIRST SEEN")
	return printList(c, devices, t, func(d signalbox.Device) {
		t.add(nil, d.Name, d.Type, sinceText(d.LastSeen, now), strconv.FormatInt(d.Dropped, 10), d.Topic, sinceText(d.CreatedAt, now))
	})
}

func (p paint) presence(presence signalbox.Presence) cellStyle {
	if presence == signalbox.Online {
		return p.green
	}
	return p.dim
}

func (c *command) deviceShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "show NAME",
		Short:             "Show a device and its latest telemetry",
		Example:           "  signalbox device show esp01",
		Args:              between(1, 1),
		ValidArgsFunction: firstOnly(c.completeDevices),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			return c.withHub(ctx, func(r *reach) error {
				device, err := r.Device(ctx, args[0])
				if err != nil {
					return err
				}
				state, err := r.State(ctx, args[0])
				if err != nil {
					return err
				}
				if c.flags.json {
					return c.printJSON(map[string]any{"device": device, "state": state})
				}
				return c.showDevice(&device, &state)
			})
		},
	}
}

func (c *command) showDevice(d *signalbox.Device, s *signalbox.State) error {
	p := c.paint()
	var b strings.Builder
	line := func(what, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%-12s%s\n", what, value)
		}
	}
	line("Name", p.bold(clean(d.Name)))
	line("Type", clean(d.Type))
	line("Presence", p.presence(d.Presence)(string(d.Presence)))
	line("Since", cmp.Or(timeText(d.Since), "it has never logged in"))
	line("Status", clean(d.Status))
	switch {
	case d.Pending:
		line("Pending", p.yellow("yes, it was seen and waits for approval"))
		line("Topic", clean(d.Topic))
		line("Dropped", strconv.FormatInt(d.Dropped, 10)+" messages since the hub's start")
	case d.Disabled:
		line("Disabled", p.yellow("yes, it cannot log in"))
	}
	line("Address", clean(d.Address))
	if d.Protocol != signalbox.ProtocolNone {
		line("Protocol", protocolText(d.Protocol))
	}
	line("Added", timeText(d.CreatedAt))
	if len(s.Telemetry) == 0 {
		line("Telemetry", p.dim("none yet"))
		return c.printf("%s", b.String())
	}
	line("Telemetry", "of "+timeText(s.Received))
	e := envelopeOf(d.Protocol, s.Telemetry, s.Time)
	for _, f := range fieldsOf(s.Telemetry) {
		if e.holds(f) {
			continue
		}
		fmt.Fprintf(&b, "  %s = %s\n", p.cyan(clean(f.name)), clean(f.value))
	}
	return c.printf("%s", b.String())
}

func (c *command) deviceRotateCommand() *cobra.Command {
	var passwordStdin bool
	cmd := &cobra.Command{
		Use:               "rotate NAME",
		Short:             "Give a device a new secret; the old one is worth nothing from then on",
		Example:           "  signalbox device rotate esp01\n  echo 1234 | signalbox device rotate esp01 --password-stdin",
		Args:              between(1, 1),
		ValidArgsFunction: firstOnly(c.completeDevices),
		RunE: func(cmd *cobra.Command, args []string) error {
			secret := ""
			if passwordStdin {
				var err error
				if secret, err = c.readSecretLine(); err != nil {
					return err
				}
			}
			return c.withHub(cmd.Context(), func(r *reach) error {
				made, err := r.RotateSecret(cmd.Context(), args[0], secret)
				if err != nil {
					return err
				}
				return c.printSecret(cmd.Context(), r, "New secret for", made, secret)
			})
		},
	}
	cmd.Flags().BoolVar(&passwordStdin, "password-stdin", false, "take the new password from standard input instead of making one")
	return cmd
}

func (c *command) deviceApproveCommand() *cobra.Command {
	var kind string
	cmd := &cobra.Command{
		Use:   "approve NAME…",
		Short: "Let a device in that was seen without being known",
		Long: `A mapping of MQTT topics with «register» makes devices pending that nobody has added: what they say is
dropped until they are approved. «signalbox device rm» forgets one instead, until it is seen again.`,
		Example:           "  signalbox device list --pending\n  signalbox device approve lamp7 --type lamp",
		Args:              between(1, -1),
		ValidArgsFunction: c.completeDevices,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.forEachName(cmd.Context(), args, "approved", func(ctx context.Context, r *reach, name string) error {
				_, err := r.ApproveDevice(ctx, name, kind)
				return err
			})
		},
	}
	cmd.Flags().StringVar(&kind, "type", "", "its type, where that should be another than its mapping's")
	completeFlag(cmd, "type", c.completeType)
	return cmd
}

func (c *command) deviceSwitchCommand(use, short string, disabled bool) *cobra.Command {
	return &cobra.Command{
		Use:               use + " NAME…",
		Short:             short,
		Example:           fmt.Sprintf("  signalbox device %s esp01", use),
		Args:              between(1, -1),
		ValidArgsFunction: c.completeDevices,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.forEachName(cmd.Context(), args, use+"d", func(ctx context.Context, r *reach, name string) error {
				_, err := r.ChangeDevice(ctx, name, client.DeviceChange{Disabled: &disabled})
				return err
			})
		},
	}
}
