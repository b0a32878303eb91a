//! Where the password of Postgres comes from, and files that hold secrets.
//!
//! In order: the setting (meant for the environment), `postgres.password_file`, the URL, `~/.pgpass` by libpq's rules
//! (manual, "The Password File"). `PGPASSWORD` is not read: it leaks into every child and is easily another server's.

use std::path::{Path, PathBuf};

use headwater_pg::{Host, Secret};

/// Reads a file that holds one secret; one line end at its end is cut off, so that `echo secret > file` works.
pub fn read_secret_file(path: &Path) -> Result<Secret, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("{} can't be read: {error}", path.display()))?;
    let secret =
        text.strip_suffix('\n').map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
    if secret.is_empty() {
        return Err(format!("{} is empty", path.display()));
    }
    if secret.contains('\n') {
        return Err(format!(
            "{} has more than one line; it must hold the password and nothing else",
            path.display()
        ));
    }
    Ok(Secret::new(secret.to_owned()))
}

/// Where the password file is: the file `PGPASSFILE` names, else `~/.pgpass`.
pub fn password_file_path() -> Option<PathBuf> {
    match std::env::var_os("PGPASSFILE") {
        Some(path) if !path.is_empty() => Some(PathBuf::from(path)),
        _ => std::env::home_dir().map(|home| home.join(".pgpass")),
    }
}

/// What a search of the password file found.
#[derive(Debug)]
pub enum Found {
    /// The first line that fits.
    Password(Secret),
    /// No file, or no line that fits.
    Nothing,
    /// The file is ignored, as libpq ignores it; the sentence says why.
    Ignored(String),
}

/// Searches the password file for this connection.
pub fn search_password_file(path: &Path, host: &Host, database: &str, user: &str) -> Found {
    let Ok(metadata) = std::fs::metadata(path) else { return Found::Nothing };
    if !metadata.is_file() {
        return Found::Ignored(format!(
            "password file {} is ignored: it is not a plain file",
            path.display()
        ));
    }
    if readable_by_others(&metadata) {
        return Found::Ignored(format!(
            "password file {0} is ignored: others can read it; run chmod 0600 {0}",
            path.display()
        ));
    }
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => return Found::Ignored(format!("password file {} is ignored: {error}", path.display())),
    };
    let (host, port) = match host {
        Host::Tcp { host, port } => (host.clone(), port),
        // libpq looks for a socket in its default directory under "localhost", for others under the path.
        Host::Unix { directory, port }
            if DEFAULT_SOCKET_DIRECTORIES.contains(&&*directory.to_string_lossy()) =>
        {
            ("localhost".to_owned(), port)
        }
        Host::Unix { directory, port } => (directory.display().to_string(), port),
    };
    let wanted = [host, port.to_string(), database.to_owned(), user.to_owned()];
    text.lines().find_map(|line| password_in_line(line, &wanted)).map_or(Found::Nothing, Found::Password)
}

const DEFAULT_SOCKET_DIRECTORIES: &[&str] = &["/tmp", "/var/run/postgresql", "/run/postgresql"];

/// `host:port:database:user:password`; `*` fits anything, `\` takes the next character as it is.
fn password_in_line(line: &str, wanted: &[String; 4]) -> Option<Secret> {
    if line.starts_with('#') {
        return None;
    }
    let mut rest = line.trim_end_matches(['\r', '\n']);
    for want in wanted {
        let (field, is_star, after) = field(rest)?;
        if !is_star && field != *want {
            return None;
        }
        rest = after;
    }
    // The password runs to the end of the line; a colon in it needs no backslash, but may have one.
    let mut password = String::new();
    let mut characters = rest.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => password.extend(characters.next()),
            ':' => break,
            c => password.push(c),
        }
    }
    (!password.is_empty()).then(|| Secret::new(password))
}

/// The first field, unescaped, whether it is a bare `*`, and what follows its colon.
fn field(text: &str) -> Option<(String, bool, &str)> {
    let mut field = String::new();
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '\\' => field.extend(characters.next().map(|(_, c)| c)),
            ':' => return Some((field, &text[..at] == "*", &text[at + 1..])),
            c => field.push(c),
        }
    }
    None
}

#[cfg(unix)]
fn readable_by_others(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    metadata.permissions().mode() & 0o077 != 0
}

#[cfg(not(unix))]
fn readable_by_others(_: &std::fs::Metadata) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str) -> Host {
        Host::Tcp { host: host.to_owned(), port: 5432 }
    }

    fn found(found: Found) -> String {
        match found {
            Found::Password(secret) => secret.expose().to_owned(),
            Found::Nothing => "nothing".to_owned(),
            Found::Ignored(why) => why,
        }
    }

    fn file(text: &str, mode: u32) -> tempfile::NamedTempFile {
        use std::os::unix::fs::PermissionsExt;
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), text).expect("write it");
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).expect("set its mode");
        file
    }

    #[test]
    fn password_file_follows_libpqs_rules() {
        let text = "# a comment\n\
                    other:5432:shop:hw:wrong host\n\
                    db:5433:shop:hw:wrong port\n\
                    db:5432:shop:hw:plain\n\
                    db:*:*:hw:second\n\
                    esc\\:aped:5432:shop:hw:a\\:b\\\\c\n\
                    localhost:5432:*:hw:socket\n\
                    /run/own:5432:*:hw:own socket\n\
                    too:few:fields\n";
        let file = file(text, 0o600);
        let unix = |directory: &str| Host::Unix { directory: directory.into(), port: 5432 };
        for (host, database, password) in [
            (tcp("db"), "shop", "plain"),
            (tcp("db"), "other", "second"),
            (tcp("esc:aped"), "shop", "a:b\\c"),
            (tcp("nowhere"), "shop", "nothing"),
            (unix("/var/run/postgresql"), "shop", "socket"),
            (unix("/run/own"), "shop", "own socket"),
        ] {
            assert_eq!(
                found(search_password_file(file.path(), &host, database, "hw")),
                password,
                "{host:?} {database}"
            );
        }
        assert_eq!(found(search_password_file(file.path(), &tcp("db"), "shop", "root")), "nothing");
    }

    #[test]
    fn a_password_file_others_can_read_is_ignored() {
        let file = file("*:*:*:*:secret\n", 0o640);
        let path = file.path().display();
        assert_eq!(
            found(search_password_file(file.path(), &tcp("db"), "shop", "hw")),
            format!("password file {path} is ignored: others can read it; run chmod 0600 {path}")
        );
        assert_eq!(
            found(search_password_file(Path::new("/nowhere/pgpass"), &tcp("db"), "shop", "hw")),
            "nothing"
        );
    }

    #[test]
    fn secret_files() {
        assert_eq!(read_secret_file(file("s3cret\n", 0o600).path()).expect("reads").expose(), "s3cret");
        assert_eq!(read_secret_file(file("s3cret\r\n", 0o600).path()).expect("reads").expose(), "s3cret");
        for (text, complaint) in [("", "is empty"), ("\n", "is empty"), ("a\nb\n", "has more than one line")]
        {
            let error = read_secret_file(file(text, 0o600).path()).err().unwrap_or_default();
            assert!(error.contains(complaint), "{text:?}: {error}");
        }
    }
}
