package daemon

import (
	"os"
	"testing"

	"lighter/internal/testkit"
	"lighter/nar/signature"
	"lighter/store"
	"lighter/store/storetest"
)

// The gate of the tests with a real guix-daemon, whose store the tests fill with garbage:
//
//	LIGHTER_GUIX_DAEMON  the socket; tests are skipped without it
//	LIGHTER_GUIX_KEY     file of a private key that the daemon's ACL lists
//	LIGHTER_GUIX_STORE   folder with the files of /gnu/store, if that is not it
//	LIGHTER_GUIX_CONFIG  folder with the daemon's acl and signing-key.pub, if not /etc/guix
//	LIGHTER_GUIX_BUSYBOX a static busybox, if not /bin/busybox; it is the builder
//	LIGHTER_GUIX_RESTART command that restarts the daemon; without it, that is not tested
//	LIGHTER_TEST_GUIX    "required": to lack one of the first two is a failure
func realOptions(t testing.TB) Options {
	t.Helper()
	for _, name := range []string{"LIGHTER_GUIX_DAEMON", "LIGHTER_GUIX_KEY"} {
		if os.Getenv(name) != "" {
			continue
		}
		if os.Getenv("LIGHTER_TEST_GUIX") == "required" {
			t.Fatalf("%s is not set, and LIGHTER_TEST_GUIX is", name)
		}
		t.Skipf("%s is not set; see the comment of realOptions", name)
	}
	return Options{
		Socket:      os.Getenv("LIGHTER_GUIX_DAEMON"),
		PhysicalDir: os.Getenv("LIGHTER_GUIX_STORE"),
		ConfigDir:   os.Getenv("LIGHTER_GUIX_CONFIG"),
	}
}

func realKey(t testing.TB) *signature.PrivateKey {
	t.Helper()
	text, err := os.ReadFile(os.Getenv("LIGHTER_GUIX_KEY"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := signature.ParsePrivateKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// open returns a store and has it closed.
func open(t testing.TB, opts Options) *Store {
	t.Helper()
	s, err := Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
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
