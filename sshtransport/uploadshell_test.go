package sshtransport_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pkg/sftp"
	"golang.org/x/sys/unix"

	"lighter/internal/testkit"
	"lighter/sshtransport"
	"lighter/sshtransport/sshtest"
)

// talkative is a login shell that has something to say before and after each command, SFTP too.
const talkative = `printf 'Welcome!\nYou have mail.\n\033[1mno line end'; sh -c "${SSH_ORIGINAL_COMMAND:-exit}"; s=$?; printf 'Good bye\033[0m'; exit $s`

// Where SFTP is missing, broken, read-only or talked into, the agent gets there all the same.
func TestUploadWithoutSFTP(t *testing.T) {
	for _, test := range []struct {
		name   string
		lines  []string
		remove string
	}{
		{name: "no subsystem", remove: "Subsystem"},
		{name: "no sftp-server", lines: []string{"Subsystem sftp /nowhere/sftp-server"}},
		{name: "read-only", lines: []string{"Subsystem sftp internal-sftp -R"}},
		{name: "a shell that talks", lines: []string{"ForceCommand " + talkative, "Subsystem sftp /usr/lib/openssh/sftp-server"}},
		{name: "a shell that talks, no forwarding", lines: []string{"ForceCommand " + talkative, "DisableForwarding yes"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			bothWays(t, func(t *testing.T, openssh bool) {
				testkit.CheckLeaks(t)
				s, f := sshtest.StartOpenSSH(t, test.lines...), newFarm(t)
				if test.remove != "" {
					s.RemoveConfig(t, test.remove)
				}
				mustGet(t, httpClient(t, newClient(t, opensshConfig(t, s, f, openssh))), "/pid")
				checkUploaded(t, f)
			})
		})
	}
}

// checkUploaded looks at what an upload has made.
func checkUploaded(t *testing.T, f *farm) {
	t.Helper()
	binary := toUpload(ownScript(t))
	sum := hex.EncodeToString(binary.SHA256[:])
	if got := f.uploaded(t); len(got) != 1 || got[0] != sum {
		t.Errorf("uploaded: %q, want %s", got, sum)
	}
	for _, name := range []string{f.remote, filepath.Join(f.remote, sum), filepath.Join(f.remote, sum, "lighter-agent")} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}

// noSFTP refuses SFTP in a server of the test.
func noSFTP(ch io.ReadWriteCloser) { ch.Close() }

// inPath makes a folder with programs for PATH.
func inPath(t *testing.T, programs map[string]string) []string {
	t.Helper()
	bin := t.TempDir()
	for name, script := range programs {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return []string{"PATH=" + bin + ":/usr/bin:/bin"}
}

// Without sha256sum the file is read back; one that arrived damaged does not stay.
func TestUploadByShellChecked(t *testing.T) {
	testkit.CheckLeaks(t)
	for _, test := range []struct {
		name     string
		programs map[string]string
		want     string
	}{
		{"no sha256sum", map[string]string{"sha256sum": "exit 127"}, ""},
		{"wrong sum", map[string]string{"sha256sum": "printf '%064d  -\\n' 0"}, "its SHA-256 is 0000"},
		{"damaged", map[string]string{"sha256sum": "exit 127", "cat": `[ $# = 1 ] && exec tr a b <"$1"; exec /bin/cat`}, "its SHA-256 is"},
		{"cut", map[string]string{"cat": "head -c 1000; exit 1"}, "exit status 1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFarm(t)
			_, cfg := startTestServer(t, f, sshtest.Options{SFTP: noSFTP, Env: inPath(t, test.programs)})
			_, err := newClient(t, cfg).DialAgent(t.Context())
			if test.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				checkUploaded(t, f)
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error = %v", err)
			}
			if left := f.uploaded(t); len(left) != 0 {
				t.Errorf("left on the machine: %q", left)
			}
		})
	}
}

// A source that is not what it should be is not put into its place.
func TestUploadByShellWrongSource(t *testing.T) {
	testkit.CheckLeaks(t)
	f := newFarm(t)
	_, cfg := startTestServer(t, f, sshtest.Options{SFTP: noSFTP})
	bad := *toUpload(ownScript(t))
	bad.SHA256[0] ^= 1
	cfg.Bootstrap.Agents = agentsOf(&bad)
	_, err := newClient(t, cfg).DialAgent(t.Context())
	if err == nil || !strings.Contains(err.Error(), "the agent to upload: its SHA-256 is") {
		t.Errorf("error = %v", err)
	}
	if left := f.uploaded(t); len(left) != 0 {
		t.Errorf("left on the machine: %q", left)
	}
}

// What is in the way of a folder is said in plain words, and another folder is the way out.
func TestDirectories(t *testing.T) {
	testkit.NeedRoot(t)
	testkit.CheckLeaks(t)
	for _, test := range []struct {
		name, options string
		flags         uintptr
		fill          bool
		errno         error
		want          string
	}{
		{"noexec", "", unix.MS_NOEXEC, false, syscall.EACCES, "no program can be run from MOUNT/agents: MOUNT is mounted noexec"},
		{"read-only", "", unix.MS_RDONLY, false, syscall.EROFS, "read-only file system"},
		{"full", "size=64k", 0, false, syscall.ENOSPC, "are needed"},
		{"no inodes", "nr_inodes=3", 0, true, syscall.ENOSPC, "no more files can be made in"},
	} {
		for _, subsystem := range []string{"internal-sftp", "/nowhere"} {
			t.Run(test.name+" "+subsystem, func(t *testing.T) {
				s, f := sshtest.StartOpenSSH(t, "Subsystem sftp "+subsystem), newFarm(t)
				mount := filepath.Join(f.dir, "mount of it")
				if err := os.Mkdir(mount, 0o700); err != nil {
					t.Fatal(err)
				}
				if err := unix.Mount("tmpfs", mount, "tmpfs", test.flags, test.options); err != nil {
					t.Fatal(err)
				}
				defer unix.Unmount(mount, unix.MNT_DETACH)
				for i := 0; test.fill && i < 3; i++ {
					_ = os.WriteFile(filepath.Join(mount, fmt.Sprint(i)), nil, 0o600) // the last ones fail
				}
				cfg := opensshConfig(t, s, f, false)
				cfg.Bootstrap.RemoteDir = filepath.Join(mount, "agents")
				_, err := newClient(t, cfg).DialAgent(t.Context())
				want := strings.ReplaceAll(test.want, "MOUNT", mount)
				if subsystem == "/nowhere" && errors.Is(test.errno, syscall.ENOSPC) {
					want = "no space left on device"
				}
				if !errors.Is(err, test.errno) || !strings.Contains(err.Error(), want) {
					t.Errorf("error = %v", err)
				}
				cfg.Bootstrap.RemoteDir = filepath.Join(f.dir, "scratch")
				mustGet(t, httpClient(t, newClient(t, cfg)), "/pid")
			})
		}
	}
}

// SFTP has no word for a quota; sh has.
func TestQuota(t *testing.T) {
	testkit.CheckLeaks(t)
	f := newFarm(t)
	_, cfg := startTestServer(t, f, sshtest.Options{
		Env: inPath(t, map[string]string{"cat": "head -c 1000; echo 'cat: write error: Disk quota exceeded' >&2; exit 1"}),
		SFTP: func(ch io.ReadWriteCloser) {
			handlers := sftp.InMemHandler()
			handlers.FilePut = fullDisk{handlers.FilePut}
			handlers.FileCmd = quotaCmd{fullDiskCmd{handlers.FileCmd}}
			server := sftp.NewRequestServer(ch, handlers)
			server.Serve()
			server.Close()
		},
	})
	_, err := newClient(t, cfg).DialAgent(t.Context())
	var dir *sshtransport.DirectoryError
	if !errors.As(err, &dir) || !errors.Is(err, syscall.EDQUOT) || errors.Is(err, fs.ErrPermission) {
		t.Errorf("error = %v", err)
	}
}

type quotaCmd struct{ fullDiskCmd }

func (quotaCmd) StatVFS(*sftp.Request) (*sftp.StatVFS, error) {
	return &sftp.StatVFS{Bsize: 4096, Frsize: 4096, Blocks: 1 << 30, Bfree: 1 << 30, Bavail: 1 << 30, Files: 10, Favail: 10}, nil
}
