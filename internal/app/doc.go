// Package app builds, joins, starts and stops the parts of a hub. It is the only package that
// knows the configuration: each part gets a small Config of its own.
//
// Contract. Open takes the data directory for this process alone, reads what is stored and
// starts the roads; the API then works inside the process (LocalAPI). Listen opens the doors,
// HTTP, devices, the socket, and Serve serves at them; FirstAdmin makes a user only when they
// are open. The open files that the system allows are divided among devices, people and the
// hub itself. The order of stopping is written at Serve and Close and nowhere
// else. Whatever the moment the process dies, a later Open finds everything that was
// acknowledged.
package app
