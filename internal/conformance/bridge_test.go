package conformance_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"signalbox/internal/wire/packet"
)

// TestMosquittoBridge joins a Mosquitto to the hub as its bridge, in both versions that they share.
// With 3.1.1 its first CONNECT asks by the level 0x84 whether the hub knows bridges.
func TestMosquittoBridge(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"mqttv311", "mqttv50"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			hub, root := theHub(t), unique()
			watcher := login(t, packet.V5)
			watcher.subscribe(root+"/up/#", 1)
			watcher.publish(root+"/down/x", "from the hub", 1, retained)

			dir := t.TempDir()
			socket, config := filepath.Join(dir, "socket"), filepath.Join(dir, "mosquitto.conf")
			text := fmt.Sprintf(`user root
listener 0 %s
allow_anonymous true
persistence false
connection hub
address %s
remote_clientid %s
remote_username bridge
remote_password %s
bridge_protocol_version %s
notifications false
restart_timeout 1
topic up/# out 1 "" %[6]s/
topic down/# in 1 "" %[6]s/
`, socket, hub.tcp, unique(), hub.password, version, root)
			if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			var said strings.Builder
			broker := command(t, "/usr/sbin/mosquitto", "-c", config, "-v")
			broker.Stdout, broker.Stderr = &said, &said
			if err := broker.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				_ = broker.Process.Kill() // it may have ended
				_ = broker.Wait()         // it was killed
				if t.Failed() {
					t.Log(said.String())
				}
			}()
			until, tick := time.Now().Add(patience), time.NewTicker(20*time.Millisecond)
			defer tick.Stop()
			for { // until it listens
				out, err := command(t, "mosquitto_pub", "--unix", socket, "-t", "up/x", "-q", "1", "-r", "-m", "from the bridge").CombinedOutput()
				if err == nil {
					break
				}
				if time.Now().After(until) {
					t.Fatalf("%v\n%s", err, out)
				}
				<-tick.C
			}
			watcher.take(root+"/up/x", "from the bridge", 1)
			out, err := command(t, "mosquitto_sub", "--unix", socket, "-t", "down/x", "-q", "1", "-C", "1", "-W", "60").CombinedOutput()
			if got := strings.TrimSpace(string(out)); err != nil || got != "from the hub" {
				t.Errorf("%v: %s", err, got)
			}
		})
	}
}
