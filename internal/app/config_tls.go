package app

// CheckCertificates tells whether the certificates and keys of the hub's own ports can be used on
// this machine: the files are there, and belong together. Only the user whom the hub runs as has to
// be able to read them, so loading the configuration does not.
func (l *LoadedConfig) CheckCertificates() error {
	var faults faults
	for _, port := range []struct {
		key string
		at  TLSConfig
	}{
		{"http.tls", l.Config.HTTP.TLS},
		{"devices.tls", TLSConfig{Cert: l.Config.Devices.TLS.Cert, Key: l.Config.Devices.TLS.Key}},
		{"mqtt.tls", TLSConfig{Cert: l.Config.MQTT.TLS.Cert, Key: l.Config.MQTT.TLS.Key}},
	} {
		if port.at == (TLSConfig{}) {
			continue
		}
		if _, err := certificate(port.at.Cert, port.at.Key); err != nil {
			faults.add("%s: %s: %s", l.From[port.key+".cert"], port.key, err)
		}
	}
	return faults.err()
}
