//! Tests of the page: what stands in it. Whether it works is tested in a browser (`tests/html.rs`).

use std::io::Read as _;

use super::super::example;
use super::*;

const HOSTILE: &str = "</script><img src=x onerror=alert(1)>";

fn page(profile: &ResolvedProfile) -> String {
    example::written(|out| write(profile, Weight::Cpu, out))
}

/// What stands between two marks.
#[track_caller]
fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let (_, rest) = text.split_once(before).expect(before);
    rest.split_once(after).expect(after).0
}

/// The names in the page's profile, and how many bytes of columns follow them.
#[track_caller]
fn head(page: &str) -> (serde_json::Value, usize) {
    let text = between(page, "id=\"profile\">", "</script>");
    let compressed = BASE64.decode(text).expect("base64");
    let mut bytes = Vec::new();
    flate2::read::DeflateDecoder::new(&compressed[..])
        .read_to_end(&mut bytes)
        .expect("deflate");
    let (length, rest) = bytes.split_first_chunk().expect("a length");
    let length = u32::from_le_bytes(*length) as usize;
    let head = serde_json::from_slice(&rest[..length]).expect("JSON");
    (head, rest.len() - length)
}

#[test]
fn a_page_has_all_its_parts() {
    let page = page(&example::profile());
    let marks = [
        "{style}",
        "{script}",
        "{profile}",
        "{live}",
        "{connect}",
        "{style-hash}",
        "{script-hash}",
    ];
    assert!(marks.iter().all(|mark| !page.contains(mark)));
    assert!(page.trim_end().ends_with("</html>"));
    let (head, columns) = head(&page);
    assert_eq!(head["weight"], "cpu");
    assert_eq!(head["threads"][1]["name"], "worker; 1");
    assert!(columns > 0);
    let head = self::head(&super::tests::page(&ResolvedProfile::default()));
    assert_eq!(
        (&head.0["nodes"], &head.0["parts"], head.1),
        (&0.into(), &1.into(), 0)
    );
}

#[test]
fn it_may_execute_its_own_script_and_load_nothing() {
    let page = page(&example::profile());
    let policy = between(&page, "content=\"default-src", "\"");
    assert!(policy.starts_with(" 'none';"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    for (element, directive) in [
        ("<script type=\"module\">", "script-src"),
        ("<style>", "style-src"),
    ] {
        let end = element
            .split([' ', '>'])
            .next()
            .unwrap_or_default()
            .replace('<', "</");
        let content = between(&page, element, &end);
        assert!(
            policy.contains(&format!("{directive} 'sha256-{}'", hash(content))),
            "{directive}"
        );
    }
    for outside in [
        "http:",
        "https:",
        "src=",
        "href=",
        "@import",
        "url(",
        "innerHTML",
        "insertAdjacentHTML",
        "eval(",
    ] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[test]
fn one_that_is_served_may_ask_where_it_came_from() {
    let packed = pack(&example::profile(), Weight::Wall, 1).expect("it is packed");
    let page = example::written(|out| write_page(&packed, Some(7), out));
    let policy = between(&page, "content=\"default-src", "\"");
    assert!(policy.ends_with("; connect-src 'self'"), "{policy}");
    assert!(page.contains("data-live=\"7\""));
    assert_eq!(head(&page).0["weight"], "wall");
    let file = self::page(&example::profile());
    assert!(!file.contains("connect-src 'self'") && !file.contains("data-live="));
}

#[test]
fn no_name_stands_in_the_page_as_text() {
    let mut profile = example::profile();
    let harmless = page(&profile);
    profile.frames[1].function = HOSTILE.into();
    profile.frames[2].file = Some(HOSTILE.into());
    profile.frames[3].module = Some(HOSTILE.into());
    profile.threads[0].name = HOSTILE.into();
    profile.threads[0].process = HOSTILE.into();
    profile.threads[1].command = HOSTILE.into();
    profile.notes.push(HOSTILE.into());
    let hostile = page(&profile);
    let without_profile = |page: &str| {
        let profile = between(page, "id=\"profile\">", "</script>").to_owned();
        assert!(
            profile
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte))
        );
        page.replace(&profile, "")
    };
    assert_eq!(without_profile(&hostile), without_profile(&harmless));
    assert!(head(&hostile).0.to_string().contains("onerror"));
}

#[test]
fn several_processes_stand_under_roots_of_their_own() {
    let names = |profile: &ResolvedProfile| head(&page(profile)).0["strings"].to_string();
    assert!(!names(&example::profile()).contains("[process]"));
    assert!(names(&example::two_of_one_program()).contains("worker [process]"));
}
