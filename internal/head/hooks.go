package head

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"lighter/hooks"
	"lighter/hooks/buildevents"
	"lighter/hooks/prunelogs"
	publishhook "lighter/hooks/publish"
	"lighter/internal/api"
	"lighter/internal/api/apiserver"
	"lighter/internal/coordinator"
	"lighter/internal/coordinator/turns"
	"lighter/internal/disk"
	"lighter/internal/human"
	"lighter/internal/settings"
	"lighter/nar/signature"
	"lighter/sshtransport"
	"lighter/store"
	"lighter/store/publish"
)

// hookMaker makes hooks of what the settings say. What built-ins share, and what has to be
// closed in the end, is in it.
type hookMaker struct {
	folders Folders
	head    *Store
	logger  *slog.Logger
	home    string
	socket  *Socket
	// log copies a build's log; it is set before hooks run.
	log func(ctx context.Context, w io.Writer, b *api.Build) error

	mu       sync.Mutex // owns all below
	made                // what is in use
	next     made       // what configure made last
	problems []string
}

// made is what was made of the settings.
type made struct {
	folder  *publish.Writer   // of [publish], nil if there is none
	closing map[string]func() // of mirrors, by hook
	hooks   []settings.Hook
}

// programs says how hooks are run: with the folders of this coordinator, so that a hook may
// call lighter.
func (m *hookMaker) programs(env []string) hooks.Programs {
	env = slices.DeleteFunc(slices.Clone(env), func(s string) bool {
		return strings.HasPrefix(s, "LIGHTER_STATE=") || strings.HasPrefix(s, "LIGHTER_CONFIG=") || strings.HasPrefix(s, "LIGHTER_STORE=")
	})
	env = append(env, "LIGHTER_STATE="+m.folders.State, "LIGHTER_CONFIG="+m.folders.Config, "LIGHTER_STORE="+m.folders.StoreKind)
	return hooks.Programs{Socket: m.folders.Socket, Dir: m.folders.State, Env: env}
}

// configure makes the hooks that the settings name, and returns with them what is wrong with the settings, each
// with its place. The hooks that can't be set up are among the others, and are not carried out.
func (m *hookMaker) configure(s *settings.Settings) (list []hooks.Config, problems []error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	folder, err := m.publishFolder(s)
	noFolder := err
	if err != nil {
		problems = append(problems, err)
	}
	closing := make(map[string]func())
	for i := range s.Hooks {
		h := &s.Hooks[i]
		c := hooks.Config{
			Name: h.Name, Events: h.Events, Command: h.Command, BuiltIn: h.BuiltIn,
			Timeout: h.Timeout, Parallel: h.Parallel, Tries: h.Tries, Tags: h.Tags,
		}
		var err error
		switch {
		case h.BuiltIn == settings.BuiltInPublish && noFolder != nil:
			c.Runner, c.Problem = brokenHook{noFolder}, noFolder.Error()
		case h.BuiltIn != "":
			var end func()
			if c.Runner, end, err = m.builtIn(s, h, folder); err == nil && end != nil {
				closing[h.Name] = end
			}
		}
		if err != nil {
			problems = append(problems, err)
			c.Runner, c.Problem = brokenHook{err}, err.Error()
		}
		list = append(list, c)
	}
	m.next = made{folder: folder, closing: closing, hooks: s.Hooks}
	return list, problems
}

// adopt makes what configure made last the one in use.
func (m *hookMaker) adopt(problems []error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	closeAll(m.closing)
	m.made, m.next = m.next, made{}
	m.problems = nil
	for _, err := range problems {
		m.problems = append(m.problems, err.Error())
	}
}

// wrong returns what of the settings can't be carried out. The programs of hooks come and go without this one.
func (m *hookMaker) wrong() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := slices.Clone(m.problems)
	for _, err := range m.folders.missingPrograms(m.hooks) {
		list = append(list, err.Error())
	}
	return list
}

// brokenHook is a hook that can't be set up.
type brokenHook struct{ err error }

func (b brokenHook) Run(context.Context, *hooks.Event) (string, error) {
	return "", hooks.Permanent(b.err)
}

// reload takes hooks and rights of the settings file as it is now, if all of that can be carried out. All else
// needs a new start.
func (m *hookMaker) reload(ctx context.Context, c *coordinator.Coordinator, face *apiserver.Server) error {
	s, err := m.folders.LoadSettings()
	if err != nil {
		return err
	}
	access, group, problems := accessOf(&s.Access, m.folders.SettingsFile())
	list, more := m.configure(s)
	if problems = append(problems, more...); len(problems) > 0 {
		m.mu.Lock()
		closeAll(m.next.closing)
		m.mu.Unlock()
		return &human.InputError{Err: errors.Join(problems...)}
	}
	if err := m.socket.regroup(group); err != nil {
		return err
	}
	m.adopt(nil)
	face.SetAccess(access)
	if err := c.SetShares(ctx, turns.Rules(s.Shares)); err != nil {
		return err
	}
	return c.SetHooks(ctx, list, nil)
}

func closeAll(closing map[string]func()) {
	for _, end := range closing {
		end()
	}
}

func (m *hookMaker) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	closeAll(m.closing)
	m.closing = nil
}

// published reports whether an item is in the folder of [publish].
func (m *hookMaker) published(ctx context.Context, p store.Path) bool {
	m.mu.Lock()
	folder := m.folder
	m.mu.Unlock()
	if folder == nil {
		return false
	}
	there, err := folder.Published(ctx, p)
	if err != nil {
		m.logger.Warn("it is not known whether an item is published", "item", p, "err", err)
	}
	return there
}

// publishFolder returns the writer of the folder that [publish] names; nil if it names none.
func (m *hookMaker) publishFolder(s *settings.Settings) (*publish.Writer, error) {
	if s.Publish.Folder == "" {
		return nil, nil
	}
	return m.writer(s, publish.Folder(s.Publish.Folder))
}

func (m *hookMaker) writer(s *settings.Settings, to publish.FS) (*publish.Writer, error) {
	key, err := m.folders.publishKey(s)
	if errors.Is(err, fs.ErrPermission) {
		return nil, m.unreadableKey(s, err)
	}
	if err != nil {
		return nil, fmt.Errorf("publish: %w", err)
	}
	return publish.New(publish.Options{
		FS: to, Key: key, Dir: store.DefaultDir, Compression: s.Publish.Compression, Level: s.Publish.Level,
		Logger: m.logger,
	})
}

func (f Folders) publishKey(s *settings.Settings) (*signature.PrivateKey, error) {
	if s.Publish.Key != "" {
		return signature.LoadPrivateKey(s.Publish.Key)
	}
	return f.LoadSigningKey()
}

// PublishKey loads the key that signs what is published: that of [publish] in the settings, or the head's.
func (f Folders) PublishKey() (*signature.PrivateKey, error) {
	s, err := f.LoadSettings()
	if err != nil {
		return nil, err
	}
	return f.publishKey(s)
}

// unreadableKey says what to do where the coordinator may not sign with a key.
func (m *hookMaker) unreadableKey(s *settings.Settings, err error) error {
	user := human.ShellWord(disk.UserName(uint32(os.Geteuid()))) // #nosec G115 -- a number of the kernel's
	if s.Publish.Key != "" {
		return fmt.Errorf("[publish] key: %w; as root: chown %s %s", err, user, human.ShellWord(s.Publish.Key))
	}
	own := filepath.Join(m.folders.Config, "publish")
	return fmt.Errorf("[publish]: %w; let it sign with another key, as root: lighter key generate %s && chown %s %s; and put key = %q below [publish] in %s",
		err, human.ShellWord(own), user, human.ShellWord(signature.SecretFile(own)), signature.SecretFile(own), m.folders.SettingsFile())
}

// openLog returns the log of a build for publishing.
func (m *hookMaker) openLog(ctx context.Context, b *api.Build) (io.ReadCloser, error) {
	if b.Attempt == 0 || b.LogSize == 0 {
		return nil, fmt.Errorf("build %s: %w: it has no log", b.ID, fs.ErrNotExist)
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(m.log(ctx, w, b)) }()
	return r, nil
}

// builtIn makes a built-in hook of its options. end, if not nil, is called when it is not used
// any more.
func (m *hookMaker) builtIn(s *settings.Settings, h *settings.Hook, folder *publish.Writer) (runner hooks.BuiltIn, end func(), err error) {
	o := h.ReadOptions()
	switch h.BuiltIn {
	case settings.BuiltInPruneLogs:
		options := prunelogs.Options{
			Dir: m.folders.Logs(), OlderThan: o.Duration("older-than", 30*24*time.Hour, prunelogs.MinAge),
			Compress: o.Choice("compress", "", "zstd", "gzip"), Every: o.Duration("every", prunelogs.DefaultEvery, time.Minute),
		}
		if err := o.Err(); err != nil {
			return nil, nil, err
		}
		runner, err = prunelogs.New(options)
	case settings.BuiltInBuildEvents:
		options := buildevents.Options{
			URL: o.Text("url", ""), BuildServer: o.Text("build-server", ""), Token: o.Text("token", ""),
		}
		if err := o.Err(); err != nil {
			return nil, nil, err
		}
		runner, err = buildevents.New(options)
	case settings.BuiltInPublish:
		if err := o.Err(); err != nil {
			return nil, nil, err
		}
		if folder == nil {
			return nil, nil, h.OptionError("", "[publish]\nfolder = \"/srv/lighter\"", "the hook %s publishes in the folder that [publish] names, and it names none", h.Name)
		}
		runner = &publishhook.Hook{Folder: folder, Store: m.head, Logs: m.openLog}
	case settings.BuiltInMirror:
		return m.mirror(s, h, o)
	default:
		err = fmt.Errorf("hook %s: no built-in is called %q", h.Name, h.BuiltIn)
	}
	if err != nil {
		return nil, nil, h.OptionError("", "", "%s", err)
	}
	return runner, nil, nil
}

// mirror publishes on another host, over SFTP.
func (m *hookMaker) mirror(s *settings.Settings, h *settings.Hook, o *settings.OptionReader) (hooks.BuiltIn, func(), error) {
	host, user, folder := o.Text("host", ""), o.Text("user", ""), o.Text("folder", "")
	port := o.Integer("port", 22, 1, 65535)
	key, hostKey := o.Text("private-key", ""), o.Text("host-key", "")
	outputsOnly := o.Boolean("outputs-only", false)
	for _, needed := range []struct{ name, value, example string }{
		{"host", host, "mirror.example.org"}, {"user", user, "lighter"}, {"folder", folder, "/srv/substitutes"},
	} {
		if needed.value == "" {
			o.Errorf(needed.name, fmt.Sprintf("%s = %q", needed.name, needed.example), "the hook %s has no option %s", h.Name, needed.name)
		}
	}
	if err := o.Err(); err != nil {
		return nil, nil, err
	}
	if rest, ok := strings.CutPrefix(key, "~/"); ok {
		key = filepath.Join(m.home, rest)
	}
	there := sshtransport.NewFolder(sshtransport.Config{
		Machine: h.Name, Addr: net.JoinHostPort(host, strconv.Itoa(port)), User: user, PrivateKey: key, HostKey: hostKey,
		HostKeySource: m.folders.SettingsFile(), Logger: m.logger,
	}, folder)
	w, err := m.writer(s, there)
	if err != nil {
		return nil, nil, errors.Join(err, there.Close())
	}
	return &publishhook.Hook{Folder: w, Store: m.head, OutputsOnly: outputsOnly, Logs: m.openLog}, func() {
		if err := there.Close(); err != nil {
			m.logger.Debug("the connection of a mirror was not closed cleanly", "hook", h.Name, "err", err)
		}
	}, nil
}
