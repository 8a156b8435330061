package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"lighter/internal/cli/base"
	"lighter/internal/cli/command"
	"lighter/internal/head"
	"lighter/internal/human"
	"lighter/machines"
	"lighter/nar/signature"
)

func keyCommand() *command.Command {
	return &command.Command{
		Name:  "key",
		Short: "the key that signs, and the keys that are trusted",
		Long: `The head signs what it sends with its signing key, and imports only what is
signed by a key in its access control list (ACL). Keys and ACL have the format
of Guix: /etc/guix/signing-key.pub can be authorized here, and the other way
round.`,
		Sub: []*command.Command{keyGenerateCommand(), keyShowCommand(), keyAuthorizeCommand()},
	}
}

func keyGenerateCommand() *command.Command {
	return &command.Command{
		Name:  "generate",
		Args:  "[FILE]",
		Short: "make a signing key",
		Long: `Makes a key pair, FILE.sec and FILE.pub, by default signing-key in the
configuration folder. A key that is there already is never replaced. The
coordinator does this by itself on its first start.`,
		Examples: []command.Example{
			{"lighter key generate", "the head's own key"},
			{"lighter key generate ./build-farm", "a key for something else: ./build-farm.pub and ./build-farm.sec"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			return base.ConfigFlags(fs).Action(func(_ context.Context, inv *command.Invocation, f head.Folders) error {
				file := f.SigningKey()
				switch {
				case len(inv.Args) == 1:
					file = inv.Args[0]
				case f.StoreKind == machines.StoreDaemon:
					return errors.New("the head's store is guix-daemon's, which signs with its own key: as root, guix archive --generate-key")
				}
				key, err := makeSigningKey(file)
				if err != nil {
					return err
				}
				fmt.Fprintf(inv.Out, "%s\n%s\n%s\n", signature.PublicFile(file), signature.SecretFile(file), key.Public().Fingerprint())
				return nil
			})
		},
	}
}

// makeSigningKey makes a key pair at file, which must not be there.
func makeSigningKey(file string) (*signature.PrivateKey, error) {
	key, err := signature.GenerateKey()
	if err != nil {
		return nil, err
	}
	return key, signature.WriteKeyPair(file, key)
}

func keyShowCommand() *command.Command {
	return &command.Command{
		Name:  "show",
		Args:  "[FILE]",
		Short: "print a public key, or the authorized ones",
		Long: `Prints the head's public key, or the one in FILE ("-" reads standard input),
ready for "lighter key authorize" or "guix archive --authorize" elsewhere.`,
		Exits: []int{command.ExitBadInput},
		Examples: []command.Example{
			{"lighter key show > head.pub", "the head's public key, for another machine"},
			{"lighter key show --fingerprint /etc/guix/signing-key.pub", "the short form, to compare by eye"},
			{"lighter key show --authorized", "whose archives the head takes"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			where := base.ConfigFlags(fs)
			fingerprint := fs.Bool("fingerprint", false, "print the fingerprint instead of the key")
			authorized := fs.Bool("authorized", false, "list the fingerprints of the keys in the ACL")
			return where.Action(func(_ context.Context, inv *command.Invocation, f head.Folders) error {
				if *authorized {
					return showAuthorized(inv, f)
				}
				key, err := publicKeyArgument(inv, f)
				if err != nil {
					return err
				}
				if *fingerprint {
					fmt.Fprintln(inv.Out, key.Fingerprint())
					return nil
				}
				_, err = fmt.Fprintln(inv.Out, strings.TrimRight(key.String(), "\n"))
				return err
			})
		},
	}
}

func showAuthorized(inv *command.Invocation, f head.Folders) error {
	if len(inv.Args) > 0 {
		return inv.UsageErrorf("--authorized takes no FILE")
	}
	acl, err := loadACL(f)
	if err != nil {
		return err
	}
	for _, k := range acl.Keys() {
		fmt.Fprintln(inv.Out, k.Fingerprint())
	}
	return nil
}

// loadACL reads the head's ACL; where there is none, nobody is authorized.
func loadACL(f head.Folders) (*signature.ACL, error) {
	acl, err := signature.LoadACLIfAny(f.ACL())
	return acl, command.BadInput(err)
}

// publicKeyArgument reads the key in the file that the argument names, or the
// head's own.
func publicKeyArgument(inv *command.Invocation, f head.Folders) (*signature.PublicKey, error) {
	if len(inv.Args) == 1 {
		return readPublicKey(inv, inv.Args[0])
	}
	key, err := signature.LoadPublicKey(signature.PublicFile(f.SigningKey()))
	if errors.Is(err, fs.ErrNotExist) {
		generate := "lighter key generate"
		if f.StoreKind == machines.StoreDaemon {
			generate = "guix archive --generate-key, as root"
		}
		return nil, fmt.Errorf("no signing key at %s; make one with: %s", signature.PublicFile(f.SigningKey()), generate)
	}
	return key, command.BadInput(err)
}

// maxKeySize bounds what is read of a key, in bytes.
const maxKeySize = 1 << 20

// readPublicKey reads a key from a file, or from standard input if it is "-".
func readPublicKey(inv *command.Invocation, file string) (*signature.PublicKey, error) {
	if file != "-" {
		key, err := signature.LoadPublicKey(file)
		var pathError *fs.PathError
		if errors.As(err, &pathError) {
			return nil, err
		}
		return key, command.BadInput(err)
	}
	text, err := io.ReadAll(io.LimitReader(inv.In, maxKeySize))
	if err != nil {
		return nil, fmt.Errorf("read standard input: %w", err)
	}
	key, err := signature.ParsePublicKey(text)
	if err != nil {
		return nil, command.BadInput(fmt.Errorf("standard input: %w", err))
	}
	return key, nil
}

func keyAuthorizeCommand() *command.Command {
	return &command.Command{
		Name:  "authorize",
		Args:  "[FILE…]",
		Short: "trust a key: import what it signed",
		Long: `Adds public keys to the head's ACL, from files or, without FILE or with "-",
from standard input. Anyone with the private half can then put any contents
into the head's store under the name of any build, so compare the fingerprint
with the one on the machine. For machines of the machines file there is
"lighter machines authorize".`,
		Exits: []int{command.ExitBadInput},
		Examples: []command.Example{
			{"lighter key authorize builder.pub", "trust the key in a file"},
			{"ssh builder cat /etc/guix/signing-key.pub | lighter key authorize", "trust a machine that runs Guix"},
			{"lighter key authorize --remove builder.pub", "trust it no longer"},
		},
		Setup: func(fs *pflag.FlagSet) command.Action {
			where := base.ConfigFlags(fs)
			remove := fs.Bool("remove", false, "take the keys off the list")
			return where.Action(func(_ context.Context, inv *command.Invocation, f head.Folders) error {
				return authorizeFiles(inv, f, *remove)
			})
		},
	}
}

func authorizeFiles(inv *command.Invocation, f head.Folders, remove bool) error {
	files := inv.Args
	if len(files) == 0 {
		files = []string{"-"}
	}
	var keys []*signature.PublicKey
	for _, file := range files {
		key, err := readPublicKey(inv, file)
		if err != nil {
			return err
		}
		keys = append(keys, key)
	}
	for _, key := range keys {
		changed, err := changeACL(f, key, remove)
		if errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("%w; whoever may write there can: %s", err, pipedKey(f, key, remove))
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(inv.Out, "%s %s in %s\n", aclWord(changed, remove), key.Fingerprint(), f.ACL())
	}
	return nil
}

// aclWord says what became of a key.
func aclWord(changed, remove bool) string {
	switch {
	case remove && changed:
		return "removed"
	case remove:
		return "not on the list"
	case changed:
		return "authorized"
	}
	return "already authorized"
}

// pipedKey is a command with which root changes the head's ACL, whatever root is told of the head.
func pipedKey(f head.Folders, key *signature.PublicKey, remove bool) string {
	command := "sudo lighter key authorize --config " + human.ShellWord(f.Config)
	switch {
	case remove:
		command += " --remove"
	case f.StoreKind == machines.StoreDaemon:
		command = "sudo guix archive --authorize"
	}
	return "echo " + human.ShellWord(strings.TrimSpace(key.String())) + " | " + command
}

// changeACL adds a key to the head's ACL, or removes it, and reports whether that
// changed anything.
func changeACL(f head.Folders, key *signature.PublicKey, remove bool) (changed bool, err error) {
	if err := os.MkdirAll(f.Keys(), 0o755); err != nil {
		return false, err
	}
	err = signature.UpdateACL(f.ACL(), func(acl *signature.ACL) error {
		if remove {
			changed = acl.Remove(key)
		} else {
			changed = acl.Add(key)
		}
		return nil
	})
	return changed, err
}
