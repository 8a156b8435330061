package signature

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// The modes of key files and of ACLs, those of Guix.
const (
	modeSecret = 0o400
	modePublic = 0o444
	modeACL    = 0o644
)

// SecretFile and PublicFile return the names of the two files of a key pair: file
// with ".sec" and with ".pub".
func SecretFile(file string) string { return file + ".sec" }

// PublicFile is described with SecretFile.
func PublicFile(file string) string { return file + ".pub" }

// LoadPrivateKey reads a private key from a file, such as /etc/guix/signing-key.sec.
// Like Guix it refuses a file that others than its owner may read or write.
func LoadPrivateKey(file string) (*PrivateKey, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s: mode %04o lets others than the owner in; want %04o", file, mode, modeSecret)
	}
	text, err := readAll(f)
	if err != nil {
		return nil, err
	}
	key, err := ParsePrivateKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return key, nil
}

// LoadPublicKey reads a public key from a file, such as /etc/guix/signing-key.pub.
func LoadPublicKey(file string) (*PublicKey, error) {
	text, err := readFile(file)
	if err != nil {
		return nil, err
	}
	key, err := ParsePublicKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return key, nil
}

// WriteKeyPair writes the key to the files that SecretFile (mode 0400) and
// PublicFile (0444) name. It makes their folder if need be. That one of them is
// there is an error that matches fs.ErrExist, and then nothing is changed.
func WriteKeyPair(file string, key *PrivateKey) error {
	for _, name := range []string{SecretFile(file), PublicFile(file)} {
		switch _, err := os.Lstat(name); {
		case err == nil:
			return fmt.Errorf("write key: %w", &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist})
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	// The secret first: a public key alone would look like a pair that lost its half.
	if err := publish(SecretFile(file), key.String(), modeSecret, os.Link); err != nil {
		return err
	}
	if err := publish(PublicFile(file), key.Public().String(), modePublic, os.Link); err != nil {
		return errors.Join(err, os.Remove(SecretFile(file)))
	}
	return nil
}

// LoadOrCreateKeyPair loads the private key of the pair that WriteKeyPair wrote for the file. Where there is
// none it makes one, and says so; of several processes that do so at the same time, all get the same.
func LoadOrCreateKeyPair(file string) (key *PrivateKey, created bool, err error) {
	key, err = LoadPrivateKey(SecretFile(file))
	if !errors.Is(err, fs.ErrNotExist) {
		return key, false, err
	}
	if key, err = GenerateKey(); err != nil {
		return nil, false, err
	}
	switch err := WriteKeyPair(file, key); {
	case errors.Is(err, fs.ErrExist):
		key, err = LoadPrivateKey(SecretFile(file))
		return key, false, err
	case err != nil:
		return nil, false, err
	}
	return key, true, nil
}

// LoadACL reads an ACL from a file, such as /etc/guix/acl.
func LoadACL(file string) (*ACL, error) {
	text, err := readFile(file)
	if err != nil {
		return nil, err
	}
	acl, err := ParseACL(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return acl, nil
}

// LoadACLIfAny is LoadACL with an empty ACL, which trusts nobody, where there is no file.
func LoadACLIfAny(file string) (*ACL, error) {
	acl, err := LoadACL(file)
	if errors.Is(err, fs.ErrNotExist) {
		return new(ACL), nil
	}
	return acl, err
}

// UpdateACL reads the ACL in the file, or takes an empty one if there is no file,
// lets change change it, and puts the result in the file's place. An error of
// change leaves everything as it was. Updates of the same file, also by other
// processes, wait for one another; readers see the old list or the new one.
func UpdateACL(file string, change func(*ACL) error) error {
	file = followed(file)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	unlock, err := lock(filepath.Dir(file))
	if err != nil {
		return err
	}
	defer unlock()
	acl, err := LoadACLIfAny(file)
	if err != nil {
		return err
	}
	if err := change(acl); err != nil {
		return err
	}
	return publish(file, acl.String(), modeACL, os.Rename)
}

// followed returns the file to which a link leads, such as one in a folder with a copy of the keys. Guix System
// makes links into the store, where nothing can be changed: those are replaced, as "guix archive --authorize" does.
func followed(file string) string {
	real, err := filepath.EvalSymlinks(file)
	if err != nil || strings.HasPrefix(real, "/gnu/store/") {
		return file
	}
	return real
}

// lock takes an exclusive lock on a folder, which costs no file of its own.
func lock(folder string) (unlock func(), err error) {
	f, err := os.Open(folder)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, &fs.PathError{Op: "lock", Path: folder, Err: err}
		}
	}
}

// publish writes a file under a temporary name and gives it its own by place:
// os.Rename to replace an existing file, os.Link to refuse to.
func publish(file, text string, mode fs.FileMode, place func(from, to string) error) error {
	f, err := os.CreateTemp(filepath.Dir(file), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		return err
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return place(f.Name(), file)
}

func readFile(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f)
}

// readAll reads a file of at most maxSexp bytes.
func readAll(f *os.File) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(f, maxSexp+1))
	if err == nil && len(text) > maxSexp {
		err = fmt.Errorf("%s: longer than %d bytes", f.Name(), maxSexp)
	}
	return text, err
}
