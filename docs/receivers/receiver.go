// A receiver of callbacks. Go 1.18 or later, nothing else.
//
//	WEBHOOK_SECRETS='whsec_...' go run receiver.go
//
// WEBHOOK_SECRETS: one or more secrets (whsec_) or public keys (whpk_), between spaces. PORT: 8001, or 0 for a
// free one. INBOX: a folder, into which each callback is written once, as ID.json.
package main

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const (
	tolerance = 5 * time.Minute
	maxBody   = 64 << 10 // bytes
)

var (
	errHeader    = errors.New("a header is missing, or is none")
	errTime      = errors.New("it is too old, or a clock is wrong")
	errSignature = errors.New("no signature is right")
	errName      = errors.New("its id is no file's name")

	fileName = regexp.MustCompile(`^[0-9A-Za-z_-]{1,100}$`)
)

// A key tells whether a signature, which had this version before it, is right for this content.
type key func(version string, signature, content []byte) bool

func readKey(text string) (key, error) {
	kind, rest, _ := strings.Cut(text, "_")
	bytes, err := base64.StdEncoding.DecodeString(rest)
	switch {
	case err == nil && kind == "whsec":
		return func(version string, signature, content []byte) bool {
			mac := hmac.New(sha256.New, bytes)
			mac.Write(content)
			// In constant time: a comparison that stops early tells how much of a guess was right.
			return version == "v1" && hmac.Equal(mac.Sum(nil), signature)
		}, nil
	case err == nil && kind == "whpk" && len(bytes) == ed25519.PublicKeySize:
		return func(version string, signature, content []byte) bool {
			return version == "v1a" && ed25519.Verify(bytes, content, signature)
		}, nil
	}
	return nil, errors.New("WEBHOOK_SECRETS: every key begins with whsec_ or whpk_, and the rest is base64")
}

// verify gives the callback's id. The body is what came, byte for byte.
func verify(keys []key, header http.Header, body []byte) (string, error) {
	id, timestamp := header.Get("webhook-id"), header.Get("webhook-timestamp")
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if id == "" || err != nil {
		return "", errHeader
	}
	if age := time.Since(time.Unix(seconds, 0)); age > tolerance || age < -tolerance {
		return "", errTime
	}
	content := append([]byte(id+"."+timestamp+"."), body...)
	for _, one := range strings.Split(header.Get("webhook-signature"), " ") {
		version, encoded, _ := strings.Cut(one, ",")
		signature, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			continue
		}
		for _, isRight := range keys {
			if isRight(version, signature, content) {
				return id, nil
			}
		}
	}
	return "", errSignature
}

// keep writes it down for good, once. It gives false where it was there: a repeat.
func keep(inbox, id string, body []byte) (bool, error) {
	if !fileName.MatchString(id) {
		return false, errName
	}
	file, err := os.CreateTemp(inbox, ".draft")
	if err != nil {
		return false, err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	if _, err := file.Write(body); err != nil {
		return false, err
	}
	if err := file.Sync(); err != nil {
		return false, err
	}
	err = os.Link(file.Name(), filepath.Join(inbox, id+".json"))
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	return err == nil, err
}

func receive(keys []key, inbox string) http.HandlerFunc {
	return func(answer http.ResponseWriter, request *http.Request) {
		if request.Method != http.MethodPost {
			answer.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(answer, request.Body, maxBody))
		if err != nil {
			answer.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		id, err := verify(keys, request.Header, body)
		if err != nil {
			fmt.Println("refused:", err)
			answer.WriteHeader(http.StatusUnauthorized)
			return
		}
		isNew, err := keep(inbox, id, body)
		if err != nil {
			log.Print(err)
			answer.WriteHeader(http.StatusInternalServerError) // it is called again
			return
		}
		if isNew {
			fmt.Println("accepted", id)
		} else {
			fmt.Println("repeated", id)
		}
		// What it means is found out later, from the inbox: whoever answers late is called again.
		answer.WriteHeader(http.StatusNoContent)
	}
}

func setting(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

func main() {
	var keys []key
	for _, text := range strings.Fields(os.Getenv("WEBHOOK_SECRETS")) {
		key, err := readKey(text)
		if err != nil {
			log.Fatal(err)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		log.Fatal("WEBHOOK_SECRETS: not set")
	}
	inbox := setting("INBOX", "inbox")
	if err := os.MkdirAll(inbox, 0o755); err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", setting("PORT", "8001")))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("listening at http://%s/webhook\n", listener.Addr())
	http.Handle("/webhook", receive(keys, inbox))
	server := &http.Server{ReadTimeout: 10 * time.Second}
	log.Fatal(server.Serve(listener))
}
