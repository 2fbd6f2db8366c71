//! The paths of the page.

use axum::{
    Router,
    body::Body,
    extract::{RawQuery, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

use super::{Page, answer::Question};

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const JSON: &str = "application/json";

/// The page, its files, and what it asks for.
pub(crate) fn routes(page: Page) -> Router {
    let file = |content_type, text: &'static str| get(async move || respond(content_type, text));
    Router::new()
        .route("/", file(HTML, include_str!("assets/index.html")))
        .route("/page/page.css", file(CSS, include_str!("assets/page.css")))
        .route("/page/page.js", file(SCRIPT, include_str!("assets/page.js")))
        .route("/page/chart.js", file(SCRIPT, include_str!("assets/chart.js")))
        .route("/page/series.js", file(SCRIPT, include_str!("assets/series.js")))
        .route("/page/icon.svg", file("image/svg+xml", include_str!("assets/icon.svg")))
        .route("/api/page", get(answer))
        .with_state(page)
}

async fn answer(State(page): State<Page>, RawQuery(query): RawQuery) -> Response {
    let question = match Question::parse(query.as_deref().unwrap_or_default()) {
        Ok(question) => question,
        Err(error) => {
            return (StatusCode::BAD_REQUEST, error).into_response();
        }
    };
    match page.answer(&question) {
        Ok(json) => respond(JSON, json),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

impl Question {
    /// Of the part of the address behind the question mark.
    fn parse(query: &str) -> Result<Self, String> {
        let mut question = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let number = || {
                value
                    .parse::<u64>()
                    .map_err(|_| format!("{name}: expected a number, got '{value}'"))
            };
            match &*name {
                "application" => question.application = Some(value.into_owned()),
                "search" => question.search = value.into_owned(),
                "since" => question.since = number()?,
                "series" => question.series = Some(number()?),
                _ => {
                    return Err(format!("{name}: expected application, search, since or series"));
                }
            }
        }
        Ok(question)
    }
}

/// Nothing of it is kept by the browser: a page of an older program would ask in an older way.
fn respond(content_type: &'static str, body: impl Into<Body>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-store"),
        // Names are users' own: whatever stands in them, no script of theirs is run, and the page
        // is in nobody's frame.
        (header::CONTENT_SECURITY_POLICY, "default-src 'self'; frame-ancestors 'none'"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    let headers = headers.map(|(name, value)| (name, HeaderValue::from_static(value)));
    (headers, body.into()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_read_and_what_is_wrong_in_it_is_named() {
        let question =
            Question::parse("application=a%26b+c&since=7&series=2&search=%C3%BC").unwrap();
        assert_eq!(question.application.as_deref(), Some("a&b c"));
        assert_eq!((question.since, question.series, &*question.search), (7, Some(2), "ü"));
        assert_eq!(Question::parse("").unwrap().application, None);
        let error = Question::parse("since=-1").unwrap_err();
        assert_eq!(error, "since: expected a number, got '-1'");
        assert!(Question::parse("sinse=1").unwrap_err().starts_with("sinse: expected "));
    }
}
