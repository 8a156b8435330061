package sshtransport

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pkg/sftp"
)

const (
	uploadPrefix = ".upload-"
	// keptAgents of other versions stay in any case, and all that were uploaded less
	// than keptFor ago: they may run, here or on a machine that shares the home.
	keptAgents = 4
	keptFor    = 60 * 24 * time.Hour
	// staleUpload is when an upload is abandoned for certain.
	staleUpload = 24 * time.Hour
)

// upload puts a program into its place under dir, unless it is there, and returns dir
// as an absolute name. Nothing with a wrong hash is ever in that place.
func upload(ctx context.Context, l *link, dir string, binary *AgentBinary) (string, error) {
	client, said, err := l.openSFTP()
	if err != nil {
		return "", &sftpUnusable{err}
	}
	defer client.Close()
	u := &uploader{link: l, client: client, said: said, binary: binary}
	if u.dir = dir; !path.IsAbs(dir) {
		// Some servers resolve only names of what exists.
		home, err := client.RealPath(".")
		if err != nil {
			return "", fmt.Errorf("the folder where SFTP starts: %w", err)
		}
		u.dir = path.Join(home, dir)
	}
	final := programIn(u.dir, binary)
	if u.isThere(final) {
		return u.dir, u.protect(u.dir, path.Dir(final))
	}
	if err := u.makeDir(u.dir); err != nil {
		return "", err
	}
	if err := u.protect(u.dir); err != nil {
		return "", err
	}
	if err := u.put(ctx, final); err != nil {
		return "", err
	}
	if err := u.removeOld(path.Dir(final), time.Now()); err != nil {
		l.cfg.Logger.Warn("old agents on the machine could not be removed", "err", err)
	}
	return u.dir, nil
}

// maxListing bounds what a server may say while a folder is listed, in bytes: some 100,000
// names. The library goes on asking until the server says that there are no more.
const maxListing = 16 << 20

// allowance fails the reader of a session when it has said more than it may.
type allowance struct {
	r    io.Reader
	left atomic.Int64
}

func newAllowance(r io.Reader) *allowance {
	a := &allowance{r: r}
	a.lift()
	return a
}

// lift lets the server say anything, and bound at most n bytes more.
func (a *allowance) lift()         { a.left.Store(math.MaxInt64) }
func (a *allowance) bound(n int64) { a.left.Store(n) }

func (a *allowance) Read(p []byte) (int, error) {
	n, err := a.r.Read(p)
	if a.left.Add(-int64(n)) < 0 {
		return 0, fmt.Errorf("the listing of a folder has more than %d bytes", maxListing)
	}
	return n, err
}

// openSFTP opens a session for SFTP. Closing the client closes it.
func (l *link) openSFTP() (*sftp.Client, *allowance, error) {
	c, err := l.request("subsystem", "sftp", errNoSFTP)
	if err != nil {
		return nil, nil, err
	}
	said := newAllowance(c.stdout)
	client, err := sftp.NewClientPipe(said, c.ch, sftp.UseConcurrentWrites(true))
	if err == nil {
		return client, said, nil
	}
	c.close()
	<-c.ended
	if said := c.stderr.quoted(); said != "" {
		return nil, nil, fmt.Errorf("%w%s", err, said)
	}
	return nil, nil, fmt.Errorf("%w (is sftp-server there? does a login script print something?)", err)
}

// uploader uploads one program.
type uploader struct {
	link   *link
	client *sftp.Client
	said   *allowance
	binary *AgentBinary
	dir    string // absolute
}

// isThere reports whether a program is in its place, complete. One that was damaged
// there is not.
func (u *uploader) isThere(name string) bool {
	info, err := u.client.Lstat(name)
	if err != nil || !info.Mode().IsRegular() || info.Size() != u.binary.Size || info.Mode().Perm()&0o100 == 0 {
		return false
	}
	return u.verify(name) == nil
}

// makeDir makes a folder and those above it, for this account alone.
func (u *uploader) makeDir(dir string) error {
	info, err := u.client.Stat(dir)
	switch {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return fmt.Errorf("folder %s: %w", dir, syscall.ENOTDIR)
	case !errors.Is(err, fs.ErrNotExist) || dir == "/":
		return fmt.Errorf("folder %s: %w", dir, err)
	}
	if err := u.makeDir(path.Dir(dir)); err != nil {
		return err
	}
	if err := u.client.Mkdir(dir); err != nil {
		if info, statErr := u.client.Stat(dir); statErr == nil && info.IsDir() {
			return nil // another one was faster
		}
		return u.explain(fmt.Errorf("folder %s: %w", dir, err), path.Dir(dir), 1)
	}
	if err := u.client.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("folder %s: %w", dir, err)
	}
	return nil
}

// protect keeps others from changing what is in folders that are there.
func (u *uploader) protect(dirs ...string) error {
	for _, dir := range dirs {
		info, err := u.client.Stat(dir)
		if err != nil {
			return fmt.Errorf("folder %s: %w", dir, err)
		}
		if info.Mode().Perm()&0o022 == 0 {
			continue
		}
		if err := u.client.Chmod(dir, info.Mode().Perm()&^0o022); err != nil {
			return fmt.Errorf("folder %s: others can change what is in it: %w", dir, err)
		}
	}
	return nil
}

// put writes the program under a name that nobody else has, checks it, and renames it.
func (u *uploader) put(ctx context.Context, final string) (err error) {
	temporary := path.Join(u.dir, uploadPrefix+strings.ToLower(rand.Text()))
	u.link.cfg.Logger.Info("uploading the agent", "to", final, "bytes", u.binary.Size)
	defer func() {
		if err != nil && u.link.lostError() == nil {
			_ = u.client.Remove(temporary) // the error says more than this one would
		}
	}()
	if err := u.write(ctx, temporary); err != nil {
		return err
	}
	if err := u.verify(temporary); err != nil {
		return err
	}
	if err := u.client.Chmod(temporary, 0o700); err != nil {
		return fmt.Errorf("%s: %w", temporary, err)
	}
	if err := u.makeDir(path.Dir(final)); err != nil {
		return err
	}
	if err := u.protect(path.Dir(final)); err != nil {
		return err
	}
	return u.rename(temporary, final)
}

func (u *uploader) write(ctx context.Context, name string) error {
	source, err := u.binary.Open()
	if err != nil {
		return err
	}
	defer source.Close()
	file, err := u.client.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return u.explain(fmt.Errorf("%s: %w", name, err), u.dir, u.binary.Size)
	}
	if err := file.Chmod(0o600); err != nil {
		file.Close()
		return fmt.Errorf("%s: %w", name, err)
	}
	hash := sha256.New()
	// The limit tells the library the size, which it needs for sending many packets at
	// a time; the byte more shows a source that is too long.
	reader := &io.LimitedReader{R: &hashedReader{ctx: ctx, r: source, hash: hash.Write}, N: u.binary.Size + 1}
	n, err := file.ReadFrom(reader)
	if err == nil && u.hasSync() {
		err = file.Sync()
	}
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return u.explain(fmt.Errorf("%s: %w", name, err), u.dir, u.binary.Size)
	}
	if err := checkSource(u.binary, n, [32]byte(hash.Sum(nil))); err != nil {
		return err
	}
	return u.checkSize(name)
}

func (u *uploader) hasSync() bool {
	_, ok := u.client.HasExtension("fsync@openssh.com")
	return ok
}

func (u *uploader) checkSize(name string) error {
	info, err := u.client.Lstat(name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if info.Size() != u.binary.Size {
		return u.explain(fmt.Errorf("%s: it has %d bytes there, not %d", name, info.Size(), u.binary.Size), u.dir, u.binary.Size)
	}
	return nil
}

// hashedReader hashes what is read from it, until its context ends.
type hashedReader struct {
	ctx  context.Context
	r    io.Reader
	hash func([]byte) (int, error)
}

func (h *hashedReader) Read(p []byte) (int, error) {
	if cause := context.Cause(h.ctx); cause != nil {
		return 0, cause
	}
	n, err := h.r.Read(p)
	_, _ = h.hash(p[:n]) // a hash never fails
	return n, err
}

// HashError says that a program is not the one that it should be.
type HashError struct {
	What      string
	Want, Got [32]byte
}

func (e *HashError) Error() string {
	return fmt.Sprintf("%s: its SHA-256 is %x, not %x", e.What, e.Got, e.Want)
}

// verify has the machine hash a file. Where it has no program for that, or no session
// to run it in, the file is read back.
func (u *uploader) verify(name string) error {
	sum, err := u.link.remoteSum(name)
	if err != nil {
		if sum, err = u.readSum(name); err != nil {
			return err
		}
	}
	if sum != u.binary.SHA256 {
		return &HashError{What: name + " on the machine", Want: u.binary.SHA256, Got: sum}
	}
	return nil
}

var sumLine = regexp.MustCompile(`(?m)^\\?([0-9a-f]{64}) [ *]`)

func (l *link) remoteSum(name string) (sum [32]byte, err error) {
	text, err := quote("sha256sum", name)
	if err != nil {
		return sum, err
	}
	// What a login script printed last may not have ended its line.
	out, err := l.output("echo; " + text)
	if err != nil {
		return sum, err
	}
	m := sumLine.FindStringSubmatch(out)
	if m == nil {
		return sum, fmt.Errorf("sha256sum: its answer %q is not understood", truncate(printable(out), 100))
	}
	_, err = hex.Decode(sum[:], []byte(m[1]))
	return sum, err
}

func (u *uploader) readSum(name string) (sum [32]byte, err error) {
	file, err := u.client.Open(name)
	if err != nil {
		return sum, fmt.Errorf("%s: %w", name, err)
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, io.LimitReader(file, u.binary.Size+1)); err != nil {
		return sum, fmt.Errorf("%s: %w", name, err)
	}
	return [32]byte(hash.Sum(nil)), nil
}

// rename replaces what is in the place, which was damaged if it is there at all.
func (u *uploader) rename(from, to string) error {
	var err error
	if _, ok := u.client.HasExtension("posix-rename@openssh.com"); ok {
		err = u.client.PosixRename(from, to)
	} else {
		_ = u.client.Remove(to) // plain SFTP does not replace; mostly nothing is there
		err = u.client.Rename(from, to)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", to, err)
	}
	return nil
}

// explain adds what SFTP has no word for: it says only "failure" when a disk is full.
func (u *uploader) explain(err error, dir string, need int64) error {
	if _, ok := u.client.HasExtension("statvfs@openssh.com"); !ok || u.link.lostError() != nil {
		return err
	}
	vfs, vfsErr := u.client.StatVFS(dir)
	if vfsErr != nil {
		return err
	}
	free := vfs.Bavail * vfs.Frsize
	switch {
	case free < uint64(max(need, 0)):
		return fmt.Errorf("%w: %d bytes are free in %s, %d are needed (%w)", syscall.ENOSPC, free, dir, need, err)
	case vfs.Files > 0 && vfs.Favail == 0:
		return fmt.Errorf("%w: no more files can be made in %s (%w)", syscall.ENOSPC, dir, err)
	case errors.As(err, new(*sftp.StatusError)):
		return &WriteError{free, err}
	}
	return err
}

// removeOld removes agents of versions that nobody has used for long, and what is left
// of uploads that broke off. A program that runs goes on without its file.
func (u *uploader) removeOld(current string, now time.Time) error {
	u.said.bound(maxListing)
	entries, err := u.client.ReadDir(u.dir)
	u.said.lift()
	if err != nil {
		return err
	}
	var versions []fs.FileInfo
	for _, entry := range entries {
		name := path.Join(u.dir, entry.Name())
		age := now.Sub(entry.ModTime())
		switch {
		case strings.HasPrefix(entry.Name(), uploadPrefix) && entry.Mode().IsRegular() && age > staleUpload:
			err = errors.Join(err, u.client.Remove(name))
		case versionName.MatchString(entry.Name()) && entry.IsDir() && name != current:
			versions = append(versions, entry)
		}
	}
	slices.SortFunc(versions, func(a, b fs.FileInfo) int { return cmp.Compare(b.ModTime().Unix(), a.ModTime().Unix()) })
	for _, old := range versions[min(keptAgents, len(versions)):] {
		if now.Sub(old.ModTime()) > keptFor {
			dir := path.Join(u.dir, old.Name())
			err = errors.Join(err, u.client.Remove(path.Join(dir, programName)), u.client.RemoveDirectory(dir))
		}
	}
	return err
}

var versionName = regexp.MustCompile(`^[0-9a-f]{64}$`)
