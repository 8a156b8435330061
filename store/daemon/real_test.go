//go:build guixlab

package daemon

import (
	"os"
	"testing"

	"lighter/internal/testkit"
	"lighter/nar/signature"
	"lighter/store"
	"lighter/store/storetest"
)

// The tests with a real guix-daemon, whose store they fill with garbage, are run on the head
// of the lab by "make test-guix". Elsewhere these variables say where things are:
//
//	LIGHTER_GUIX_DAEMON  the socket, if not the usual one
//	LIGHTER_GUIX_KEY     file of a private key that the daemon's ACL lists, if not its own
//	LIGHTER_GUIX_STORE   folder with the files of /gnu/store, if that is not it
//	LIGHTER_GUIX_CONFIG  folder with the daemon's acl and signing-key.pub, if not /etc/guix
//	LIGHTER_GUIX_BUSYBOX a static busybox, if not /bin/busybox; it is the builder
//	LIGHTER_GUIX_RESTART command that restarts the daemon, if not the lab's
func realOptions(testing.TB) Options {
	return Options{
		Socket:      os.Getenv("LIGHTER_GUIX_DAEMON"),
		PhysicalDir: os.Getenv("LIGHTER_GUIX_STORE"),
		ConfigDir:   os.Getenv("LIGHTER_GUIX_CONFIG"),
	}
}

func realKey(t testing.TB) *signature.PrivateKey {
	t.Helper()
	file := os.Getenv("LIGHTER_GUIX_KEY")
	if file == "" {
		file = "/etc/guix/signing-key.sec"
	}
	key, err := signature.LoadPrivateKey(file)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestRealConformance(t *testing.T) {
	opts := realOptions(t)
	key := realKey(t)
	for name, own := range map[string]*signature.PrivateKey{"signed by the daemon": nil, "signed here": key} {
		t.Run(name, func(t *testing.T) {
			testkit.CheckLeaks(t)
			opts := opts
			opts.Key = own
			storetest.TestStore(t, storetest.Fixture{
				Key:    key,
				Shared: true,
				Open:   func(t *testing.T) store.Store { return open(t, opts) },
			})
		})
	}
}
